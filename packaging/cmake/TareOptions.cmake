# Compiler flags that every room shares, sanitizers, and the external libraries with a clear message
# when one is missing.
add_compile_options(-Wall -Wextra -Wconversion -Wshadow -Werror -ffp-contract=off)
add_compile_definitions(_GNU_SOURCE)

set(TARE_SANITIZE "" CACHE STRING "Sanitizers for everything, as -fsanitize= takes them")
option(TARE_FUZZ "Build the fuzz targets with libFuzzer (clang only)" OFF)
if(TARE_SANITIZE)
  add_compile_options(-fsanitize=${TARE_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${TARE_SANITIZE})
endif()
if(TARE_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

# tare_library(NAME header.h lib package): imported target NAME, or a message that names the package.
function(tare_library name header lib package)
  find_path(${name}_INCLUDE ${header})
  find_library(${name}_LIBRARY ${lib})
  if(NOT ${name}_INCLUDE OR NOT ${name}_LIBRARY)
    message(FATAL_ERROR "${header} or lib${lib} is missing: install ${package} (script/setup does it)")
  endif()
  add_library(${name} INTERFACE IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES INTERFACE_LINK_LIBRARIES ${${name}_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${${name}_INCLUDE})
endfunction()

tare_library(sodium sodium.h sodium libsodium-dev)
tare_library(crypto openssl/evp.h crypto libssl-dev)
tare_library(cbor cbor.h cbor libcbor-dev)
tare_library(paho MQTTAsync.h paho-mqtt3as libpaho-mqtt-dev)
tare_library(lmdb lmdb.h lmdb liblmdb-dev)
tare_library(jansson jansson.h jansson libjansson-dev)
tare_library(yaml yaml.h yaml libyaml-dev)
tare_library(inih ini.h inih libinih-dev)
tare_library(microhttpd microhttpd.h microhttpd libmicrohttpd-dev)
tare_library(curl curl/curl.h curl libcurl4-openssl-dev)
tare_library(utf8proc utf8proc.h utf8proc libutf8proc-dev)
tare_library(pcre2 pcre2.h pcre2-8 libpcre2-dev)
