/* mqtt_test.c tests protocol/mqtt.c against a real broker on loopback with mutual TLS. */
#include "tests/harness.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "protocol/transport.h"

#define DEVICE "0123456789abcdef0123456789abcdef"
#define OTHER "ffffffffffffffffffffffffffffffff"
#define UP "tare/1/demo/" DEVICE "/up/job"
#define DOWN "tare/1/demo/" DEVICE "/dn/plan"

static char folder[64];
static uint16_t port;
static pid_t broker;

static int shell(const char *script)
{
    char line[4096];
    snprintf(line, sizeof line, "cd '%s' && { %s; } >>log 2>&1", folder, script);
    return system(line);
}

static uint16_t free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int bad = bind(fd, (struct sockaddr *)&address, size) ||
              getsockname(fd, (struct sockaddr *)&address, &size);
    close(fd);
    return bad ? 0 : ntohs(address.sin_port);
}

static int make_certificates(void)
{
    return shell(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca "
        "-keyout ca.key -out ca.crt && "
        "cp ca.crt other-ca.crt && "
        "make() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 "
        "-keyout $2.key -out $2.csr && printf \"$3\" >ext && openssl x509 -req -in $2.csr -CA "
        "ca.crt "
        "-CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $2.crt; } && "
        "make localhost srv 'subjectAltName=DNS:localhost' && make " DEVICE " dev '' && "
        "make controller ctl '' && make " OTHER " oth '' && "
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x "
        "-keyout x.key -out other-ca.crt && chmod 644 *.key");
}

static int write_configuration(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/broker.conf", folder);
    FILE *f = fopen(path, "w");
    if (!f)
        return 1;
    fprintf(f,
            "per_listener_settings false\nlistener %u 127.0.0.1\ncafile %s/ca.crt\ncertfile "
            "%s/srv.crt\n"
            "keyfile %s/srv.key\ntls_version tlsv1.2\nrequire_certificate true\n"
            "use_identity_as_username true\nuse_username_as_clientid true\nallow_anonymous false\n"
            "acl_file %s/acl\nset_tcp_nodelay true\nmax_packet_size 300000\npersistence false\n",
            port, folder, folder, folder, folder);
    fclose(f);
    snprintf(path, sizeof path, "%s/acl", folder);
    if (!(f = fopen(path, "w")))
        return 1;
    fprintf(f,
            "pattern write tare/1/+/%%u/up/#\npattern read tare/1/+/%%u/dn/#\n\nuser controller\n"
            "topic read tare/1/demo/+/up/#\ntopic write tare/1/demo/+/dn/#\n");
    return fclose(f);
}

static void start_broker(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/broker.conf", folder);
    fflush(stdout);
    broker = fork();
    if (broker == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(1);
        execlp("mosquitto", "mosquitto", "-c", path, (char *)NULL);
        _exit(127);
    }
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    for (int i = 0; i < 500; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        int ok = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
        close(fd);
        if (ok)
            return;
        usleep(10000);
    }
}

static void stop_broker(int with)
{
    if (broker <= 0)
        return;
    kill(broker, with);
    waitpid(broker, NULL, 0);
    broker = 0;
}

static struct transport open_client(const char *name, const char *id, const char *host,
                                    const char *ca_name)
{
    static char ca[128], cert[128], key[128];
    struct transport t = {0};
    snprintf(ca, sizeof ca, "%s/%s.crt", folder, ca_name);
    snprintf(cert, sizeof cert, "%s/%s.crt", folder, name);
    snprintf(key, sizeof key, "%s/%s.key", folder, name);
    struct transport_options options = {.host = host,
                                        .port = port,
                                        .client_id = id,
                                        .ca_file = ca,
                                        .cert_file = cert,
                                        .key_file = key,
                                        .keepalive_s = 5,
                                        .connect_timeout_s = 5,
                                        .backoff_least_ms = 50,
                                        .backoff_most_ms = 400};
    CU_ASSERT_EQUAL(transport_mqtt_open(&options, &t), ERR_NONE);
    return t;
}

/* Runs the client until an event of the kind comes, at most ten seconds. */
static int wait_event(struct transport *t, uint32_t kind, struct transport_event *out)
{
    time_t stop = time(NULL) + 10;
    while (time(NULL) <= stop) {
        int wait_ms = -1;
        if (t->step(t->state, &wait_ms) != ERR_NONE)
            return 0;
        while (t->next(t->state, out) == ERR_NONE)
            if (out->kind == kind)
                return 1;
        struct pollfd p = {.fd = t->fd, .events = POLLIN};
        poll(&p, 1, 500);
    }
    return 0;
}

static int connected(struct transport *t)
{
    struct transport_event event;
    return t->connect(t->state) == ERR_NONE && wait_event(t, TRANSPORT_CONNECTED, &event);
}

static int subscribed(struct transport *t, const char *filter)
{
    struct transport_event event;
    return t->subscribe(t->state, filter) == ERR_NONE &&
           wait_event(t, TRANSPORT_SUBSCRIBED, &event) && event.err == ERR_NONE;
}

/* One client per process is the rule, so the far end is the broker's own client. */
static int far_publish(const char *topic, const char *text)
{
    char line[1024];
    snprintf(
        line, sizeof line,
        "mosquitto_pub -h localhost -p %u --cafile ca.crt --cert ctl.crt --key ctl.key -V 5 -i "
        "controller -q 1 -t %s -m %s",
        port, topic, text);
    return shell(line);
}

static void publishes_and_receives(void)
{
    struct transport t = open_client("dev", DEVICE, "localhost", "ca");
    struct transport_event event;
    uint32_t token = 0;
    uint8_t big[200 * 1024];
    memset(big, 7, sizeof big);
    CU_ASSERT_EQUAL(t.publish(t.state, UP, big, 1, false, &token), ERR_FULL); /* not connected */
    CU_ASSERT_TRUE_FATAL(connected(&t));
    CU_ASSERT_TRUE(subscribed(&t, "tare/1/demo/" DEVICE "/dn/#"));
    CU_ASSERT_EQUAL(far_publish(DOWN, "hello"), 0);
    CU_ASSERT_TRUE_FATAL(wait_event(&t, TRANSPORT_MESSAGE, &event));
    CU_ASSERT_STRING_EQUAL(event.topic, DOWN);
    CU_ASSERT_EQUAL(event.payload_bytes, 5);
    CU_ASSERT_EQUAL(memcmp(event.payload, "hello", 5), 0);
    CU_ASSERT_EQUAL(t.publish(t.state, UP, big, sizeof big, false, &token), ERR_NONE);
    CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_DELIVERED, &event));
    CU_ASSERT_EQUAL(event.token, token);
    CU_ASSERT_EQUAL(t.publish(t.state, UP, big, TRANSPORT_PAYLOAD_MAX + 1, false, &token),
                    ERR_ARGUMENT);
    /* the window: never more than 16 in flight */
    int sent = 0;
    while (sent < 100 && t.publish(t.state, UP, big, 100, false, &token) == ERR_NONE)
        sent++;
    CU_ASSERT_TRUE(sent <= TRANSPORT_WINDOW_MAX && sent > 0);
    for (int i = 0; i < sent; i++)
        CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_DELIVERED, &event));
    t.close(t.state);
}

static void sees_refused_topic(void)
{
    struct transport t = open_client("dev", DEVICE, "localhost", "ca");
    struct transport_event event;
    uint32_t token = 0;
    CU_ASSERT_TRUE_FATAL(connected(&t));
    CU_ASSERT_EQUAL(
        t.publish(t.state, "tare/1/demo/" OTHER "/up/job", (const uint8_t *)"x", 1, false, &token),
        ERR_NONE);
    CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_FAILED, &event));
    CU_ASSERT_EQUAL(event.err, ERR_AUDIENCE);
    CU_ASSERT_EQUAL(event.reason_code, 0x87);
    CU_ASSERT_EQUAL(event.token, token);
    t.close(t.state);
}

static void refuses_wrong_host_name(void)
{
    struct transport t = open_client("dev", DEVICE, "127.0.0.1", "ca");
    struct transport_event event;
    CU_ASSERT_EQUAL(t.connect(t.state), ERR_NONE);
    CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_LOST, &event));
    printf("[%s] ", event.text);
    struct transport_counts counts;
    t.counts(t.state, &counts);
    CU_ASSERT_EQUAL(counts.connects, 0);
    t.close(t.state);
}

static void refuses_wrong_authority(void)
{
    struct transport t = open_client("dev", DEVICE, "localhost", "other-ca");
    struct transport_event event;
    CU_ASSERT_EQUAL(t.connect(t.state), ERR_NONE);
    CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_LOST, &event));
    CU_ASSERT_EQUAL(event.err, ERR_SIGNATURE);
    printf("[%s] ", event.text);
    t.close(t.state);
}

static void survives_broker_death(void)
{
    struct transport t = open_client("dev", DEVICE, "localhost", "ca");
    struct transport_event event;
    uint32_t token = 0;
    CU_ASSERT_TRUE_FATAL(connected(&t));
    CU_ASSERT_TRUE(subscribed(&t, "tare/1/demo/" DEVICE "/dn/#"));
    for (int round = 0; round < 3; round++) {
        (void)t.publish(t.state, UP, (const uint8_t *)"x", 1, false, &token);
        stop_broker(SIGKILL);
        CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_LOST, &event));
        CU_ASSERT_TRUE(event.retry_ms <= 400); /* backoff_most_ms */
        CU_ASSERT_EQUAL(t.publish(t.state, UP, (const uint8_t *)"x", 1, false, &token), ERR_FULL);
        usleep(200 * 1000);
        start_broker();
        CU_ASSERT_TRUE_FATAL(wait_event(&t, TRANSPORT_CONNECTED, &event));
        CU_ASSERT_FALSE(event.has_session); /* no persistence: subscribe and pull again */
        CU_ASSERT_TRUE(subscribed(&t, "tare/1/demo/" DEVICE "/dn/#"));
        CU_ASSERT_EQUAL(far_publish(DOWN, "again"), 0);
        CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_MESSAGE, &event));
        /* the window is free again */
        for (int i = 0; i < TRANSPORT_WINDOW_MAX; i++) {
            CU_ASSERT_EQUAL(t.publish(t.state, UP, (const uint8_t *)"y", 1, false, &token),
                            ERR_NONE);
            CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_DELIVERED, &event));
        }
    }
    t.close(t.state);
}

static void keeps_session(void)
{
    struct transport t = open_client("dev", DEVICE, "localhost", "ca");
    struct transport_event event;
    CU_ASSERT_TRUE_FATAL(connected(&t));
    CU_ASSERT_TRUE(subscribed(&t, "tare/1/demo/" DEVICE "/dn/#"));
    t.close(t.state);
    CU_ASSERT_EQUAL(far_publish(DOWN, "later"), 0);
    t = open_client("dev", DEVICE, "localhost", "ca");
    CU_ASSERT_EQUAL(t.connect(t.state), ERR_NONE);
    CU_ASSERT_TRUE_FATAL(wait_event(&t, TRANSPORT_CONNECTED, &event));
    CU_ASSERT_TRUE(event.has_session);
    CU_ASSERT_TRUE(wait_event(&t, TRANSPORT_MESSAGE, &event));
    t.close(t.state);
}

static int is_absent(const char *program)
{
    char line[128];
    snprintf(line, sizeof line, "command -v %s >/dev/null 2>&1", program);
    return system(line) != 0;
}

static void clean_up(void)
{
    char line[128];
    stop_broker(SIGTERM);
    snprintf(line, sizeof line, "rm -rf '%s'", folder);
    if (folder[0] && system(line) != 0)
        fprintf(stderr, "mqtt_test: %s stays behind\n", folder);
}

static int run(void);

int main(void)
{
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    if (is_absent("mosquitto") || is_absent("mosquitto_pub") || is_absent("openssl")) {
        printf("mqtt_test: skipped: mosquitto, mosquitto_pub and openssl are needed\n");
        return HARNESS_SKIPPED;
    }
    strcpy(folder, "/tmp/tare-mqtt-XXXXXX");
    if (!mkdtemp(folder) || chmod(folder, 0755) != 0)
        return 1;
    port = free_port();
    int bad = port == 0 || make_certificates() || write_configuration();
    if (bad) {
        fprintf(stderr, "mqtt_test: cannot prepare %s\n", folder);
    } else {
        start_broker();
        bad = run();
    }
    clean_up();
    return bad;
}

#define main run
static RUN_SUITE("mqtt", {"publishes_and_receives", publishes_and_receives},
                 {"sees_refused_topic", sees_refused_topic},
                 {"refuses_wrong_host_name", refuses_wrong_host_name},
                 {"refuses_wrong_authority", refuses_wrong_authority},
                 {"keeps_session", keeps_session}, {"survives_broker_death", survives_broker_death})
