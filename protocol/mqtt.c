/* mqtt.c: MQTT 5 over TLS by the Paho library, which is a wire here and nothing more.
 *
 * Its callbacks run on its threads with its locks held, so they copy into the ring, wake the
 * eventfd and return. It keeps no message on disk and none while disconnected, reconnects when we
 * say so, and is never called from a callback. A publish that Paho gave no answer to is "not
 * known", and the caller sends again.
 */
#include "protocol/mqtt.h"

#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- callbacks: on Paho's threads ---- */

static void wake(struct mqtt *m)
{
    uint64_t one = 1;
    /* fails only when the counter is full, and then the reader is awake already */
    if (write(m->event_fd, &one, sizeof one) < 0)
        return;
}

static void put_event(struct mqtt *m, const struct header *header, const char *text)
{
    struct ring_part part[] = {{header, sizeof *header}, {text, strnlen(text, TEXT_MAX - 1)}};
    if (!ring_put(&m->ring, part, 2, 0))
        atomic_fetch_add(&m->dropped, 1);
    wake(m);
}

int mqtt_on_message(void *context, char *topic, int topic_bytes, MQTTAsync_message *message)
{
    struct mqtt *m = context;
    size_t n = topic_bytes > 0 ? (size_t)topic_bytes : strlen(topic);
    struct header header = {.kind = TRANSPORT_MESSAGE,
                            .is_retained = message->retained != 0,
                            .topic_bytes = (uint32_t)n};
    size_t size = message->payloadlen > 0 ? (size_t)message->payloadlen : 0;
    struct ring_part part[] = {{&header, sizeof header}, {topic, n}, {message->payload, size}};
    if (n < TRANSPORT_TOPIC_MAX && size <= TRANSPORT_PAYLOAD_MAX &&
        ring_put(&m->ring, part, 3, EVENT_RESERVE))
        atomic_fetch_add(&m->received, 1);
    else
        atomic_fetch_add(&m->dropped, 1);
    MQTTAsync_freeMessage(&message);
    MQTTAsync_free(topic);
    wake(m);
    return 1;
}

static void on_connected(void *context, MQTTAsync_successData5 *data)
{
    struct header header = {.kind = TRANSPORT_CONNECTED,
                            .has_session = data && data->alt.connect.sessionPresent};
    put_event(context, &header, "");
}

static void on_connect_failed(void *context, MQTTAsync_failureData5 *data)
{
    struct mqtt *m = context;
    char text[TEXT_MAX];
    struct header header = {.kind = TRANSPORT_LOST, .err = ERR_IO};
    if (data && (int)data->reasonCode > 0) {
        header.reason_code = (uint32_t)data->reasonCode;
        bool refused = data->reasonCode == MQTTREASONCODE_NOT_AUTHORIZED ||
                       data->reasonCode == MQTTREASONCODE_BAD_USER_NAME_OR_PASSWORD;
        header.err = refused ? ERR_AUDIENCE : ERR_IO;
        snprintf(text, sizeof text, "the broker refused the connection: %s",
                 MQTTReasonCode_toString(data->reasonCode));
    } else if (atomic_load(&m->has_tls_error)) {
        header.err = ERR_SIGNATURE;
        snprintf(text, sizeof text, "TLS: %.140s", m->tls_error);
    } else {
        snprintf(text, sizeof text,
                 "cannot connect (unreachable, or a certificate for another name): %.80s",
                 data && data->message ? data->message : "no answer");
    }
    put_event(m, &header, text);
}

void mqtt_on_lost(void *context, char *cause)
{
    struct header header = {.kind = TRANSPORT_LOST, .err = ERR_IO};
    put_event(context, &header, cause ? cause : "the connection was lost");
    if (cause)
        MQTTAsync_free(cause);
}

/* OpenSSL's own words, line by line; the first one says most */
static int on_tls_error(const char *text, size_t size, void *context)
{
    struct mqtt *m = context;
    if (!atomic_load(&m->has_tls_error)) {
        size_t n = size < TEXT_MAX - 1 ? size : TEXT_MAX - 1;
        memcpy(m->tls_error, text, n);
        m->tls_error[n] = 0;
        m->tls_error[strcspn(m->tls_error, "\r\n")] = 0;
        atomic_store(&m->has_tls_error, true);
    }
    return 1;
}

static void on_delivered(void *context, MQTTAsync_successData5 *data)
{
    struct slot *slot = context;
    slot->reason_code = data ? (int)data->reasonCode : 0;
    slot->is_delivered = true;
    atomic_store(&slot->state, SLOT_ANSWERED);
    wake(slot->mqtt);
}

static void on_not_delivered(void *context, MQTTAsync_failureData5 *data)
{
    struct slot *slot = context;
    slot->reason_code = data ? (int)data->reasonCode : 0;
    slot->is_delivered = false;
    atomic_store(&slot->state, SLOT_ANSWERED);
    wake(slot->mqtt);
}

static void on_subscribed(void *context, MQTTAsync_successData5 *data)
{
    struct header header = {.kind = TRANSPORT_SUBSCRIBED};
    (void)data;
    put_event(context, &header, "");
}

static void on_not_subscribed(void *context, MQTTAsync_failureData5 *data)
{
    int code = data ? (int)data->reasonCode : 0;
    struct header header = {.kind = TRANSPORT_SUBSCRIBED,
                            .err = code == MQTTREASONCODE_NOT_AUTHORIZED ? ERR_AUDIENCE : ERR_IO,
                            .reason_code = code > 0 ? (uint32_t)code : 0};
    put_event(context, &header, "the subscription was refused");
}

/* ---- the link: on the caller's thread ---- */

/* When step has something to do; 0: never. */
static uint64_t due_at(const struct mqtt *m)
{
    uint64_t due = 0;
    if (m->link == LINK_WAITING || m->link == LINK_CONNECTING)
        return m->due_ms;
    for (uint32_t i = 0; m->link == LINK_CONNECTED && i < TRANSPORT_WINDOW_MAX; i++) {
        const struct slot *slot = &m->slot[i];
        uint64_t since = slot->sent_ms > m->connected_ms ? slot->sent_ms : m->connected_ms;
        if (atomic_load(&slot->state) == SLOT_BUSY && !slot->is_reported &&
            (due == 0 || since + ANSWER_MS < due))
            due = since + ANSWER_MS;
    }
    return due;
}

static void arm_timer(struct mqtt *m)
{
    uint64_t at = due_at(m);
    struct itimerspec when = {.it_value = {(time_t)(at / 1000), (long)(at % 1000) * 1000000}};
    (void)timerfd_settime(m->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Full jitter: anywhere between now and a ceiling that doubles with each failure. */
static void wait_for_retry(struct mqtt *m)
{
    uint64_t ceiling = m->options.backoff_least_ms;
    for (uint32_t i = 0; i < m->failures && ceiling < m->options.backoff_most_ms; i++)
        ceiling *= 2;
    if (ceiling > m->options.backoff_most_ms)
        ceiling = m->options.backoff_most_ms;
    m->failures++;
    m->link = LINK_WAITING;
    m->due_ms = now_ms() + randombytes_uniform((uint32_t)ceiling + 1);
    arm_timer(m);
}

static void on_link_event(struct mqtt *m, const struct header *header)
{
    if (header->kind == TRANSPORT_CONNECTED) {
        m->link = LINK_CONNECTED;
        m->connected_ms = now_ms();
        m->counts.connects++;
        arm_timer(m);
    } else if (header->kind == TRANSPORT_LOST && m->link != LINK_WAITING && m->link != LINK_IDLE) {
        if (m->link == LINK_CONNECTED && now_ms() - m->connected_ms >= STABLE_MS)
            m->failures = 0;
        wait_for_retry(m);
    }
}

static void add_property(MQTTProperties *to, enum MQTTPropertyCodes code, uint32_t value)
{
    MQTTProperty property = {.identifier = code};
    if (code == MQTTPROPERTY_CODE_RECEIVE_MAXIMUM)
        property.value.integer2 = (unsigned short)value;
    else
        property.value.integer4 = value;
    (void)MQTTProperties_add(to, &property);
}

static enum err start_connecting(struct mqtt *m)
{
    const struct transport_options *o = &m->options;
    MQTTAsync_connectOptions connect = MQTTAsync_connectOptions_initializer5;
    MQTTAsync_SSLOptions ssl = MQTTAsync_SSLOptions_initializer;
    MQTTAsync_willOptions will = MQTTAsync_willOptions_initializer;
    MQTTProperties properties = MQTTProperties_initializer,
                   will_properties = MQTTProperties_initializer;
    ssl.trustStore = o->ca_file;
    ssl.keyStore = o->cert_file;
    ssl.privateKey = o->key_file;
    ssl.enableServerCertAuth = 1;
    ssl.verify = 1;                            /* the host name; off by default */
    ssl.sslVersion = MQTT_SSL_VERSION_TLS_1_2; /* the least */
    ssl.disableDefaultTrustStore = 1;
    ssl.ssl_error_cb = on_tls_error;
    ssl.ssl_error_context = m;
    add_property(&properties, MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL, o->session_expiry_s);
    add_property(&properties, MQTTPROPERTY_CODE_RECEIVE_MAXIMUM, TRANSPORT_WINDOW_MAX);
    add_property(&properties, MQTTPROPERTY_CODE_MAXIMUM_PACKET_SIZE, TRANSPORT_PAYLOAD_MAX + 1024);
    if (o->will_topic) {
        will.topicName = o->will_topic;
        will.payload.data = o->will;
        will.payload.len = (int)o->will_bytes;
        will.qos = 1;
        will.retained = 1;
        add_property(&will_properties, MQTTPROPERTY_CODE_WILL_DELAY_INTERVAL, o->will_delay_s);
        connect.will = &will;
        connect.willProperties = &will_properties;
    }
    connect.keepAliveInterval = (int)o->keepalive_s;
    connect.connectTimeout = (int)o->connect_timeout_s;
    connect.maxInflight = (int)o->window;
    connect.cleanstart = 0;
    connect.automaticReconnect = 0;
    connect.ssl = &ssl;
    connect.connectProperties = &properties;
    connect.onSuccess5 = on_connected;
    connect.onFailure5 = on_connect_failed;
    connect.context = m;
    atomic_store(&m->has_tls_error, false);
    int rc = MQTTAsync_connect(m->client, &connect);
    MQTTProperties_free(&properties);
    MQTTProperties_free(&will_properties);
    if (rc != MQTTASYNC_SUCCESS) {
        wait_for_retry(m);
        return ERR_IO;
    }
    m->link = LINK_CONNECTING;
    m->due_ms = now_ms() + (uint64_t)o->connect_timeout_s * 1000 + 10000;
    arm_timer(m);
    return ERR_NONE;
}

static enum err mqtt_connect(void *state)
{
    struct mqtt *m = state;
    if (m->link != LINK_IDLE)
        return ERR_NONE;
    enum err e = start_connecting(m);
    signal(SIGPIPE, SIG_IGN); /* Paho sets its own disposition at the first connect */
    return e;
}

static enum err mqtt_step(void *state, int *wait_ms)
{
    struct mqtt *m = state;
    uint64_t expirations, now = now_ms();
    if (read(m->timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
        return ERR_IO;
    if (m->link == LINK_WAITING && now >= m->due_ms) {
        (void)start_connecting(m);
    } else if (m->link == LINK_CONNECTING && now >= m->due_ms) {
        struct header header = {.kind = TRANSPORT_LOST, .err = ERR_TIMEOUT};
        m->due_ms = now + ANSWER_MS; /* the event is handled by next() */
        put_event(m, &header, "no answer to the connection");
    }
    arm_timer(m);
    uint64_t due = due_at(m);
    now = now_ms();
    *wait_ms = due == 0 ? -1 : due > now ? (int)(due - now) : 0;
    return ERR_NONE;
}

static enum err mqtt_publish(void *state, const char *topic, const uint8_t *payload,
                             size_t payload_bytes, bool is_retained, uint32_t *token)
{
    struct mqtt *m = state;
    struct slot *slot = NULL;
    /* for ever too large must not look like "later", or the caller would try for ever */
    if (payload_bytes > TRANSPORT_PAYLOAD_MAX || strlen(topic) >= TRANSPORT_TOPIC_MAX)
        return ERR_ARGUMENT;
    if (m->link != LINK_CONNECTED)
        return ERR_FULL;
    for (uint32_t i = 0; i < m->options.window && !slot; i++)
        if (atomic_load(&m->slot[i].state) == SLOT_FREE)
            slot = &m->slot[i];
    if (!slot)
        return ERR_FULL;
    if (++m->token == 0)
        m->token = 1;
    slot->token = m->token;
    slot->sent_ms = now_ms();
    slot->is_reported = false;
    atomic_store(&slot->state, SLOT_BUSY);
    MQTTAsync_message message = MQTTAsync_message_initializer;
    MQTTAsync_responseOptions answer = MQTTAsync_responseOptions_initializer;
    uint8_t nothing = 0;
    message.payload =
        payload_bytes ? (void *)(uintptr_t)payload : (void *)&nothing; /* Paho copies it */
    message.payloadlen = (int)payload_bytes;
    message.qos = 1;
    message.retained = is_retained;
    answer.onSuccess5 = on_delivered;
    answer.onFailure5 = on_not_delivered;
    answer.context = slot;
    int rc = MQTTAsync_sendMessage(m->client, topic, &message, &answer);
    if (rc != MQTTASYNC_SUCCESS) {
        atomic_store(&slot->state, SLOT_FREE);
        return rc == MQTTASYNC_DISCONNECTED || rc == MQTTASYNC_MAX_BUFFERED_MESSAGES ? ERR_FULL
                                                                                     : ERR_IO;
    }
    m->counts.published++;
    *token = slot->token;
    arm_timer(m);
    return ERR_NONE;
}

static enum err mqtt_subscribe(void *state, const char *filter)
{
    struct mqtt *m = state;
    MQTTAsync_responseOptions answer = MQTTAsync_responseOptions_initializer;
    if (m->link != LINK_CONNECTED)
        return ERR_FULL;
    answer.onSuccess5 = on_subscribed;
    answer.onFailure5 = on_not_subscribed;
    answer.context = m;
    return MQTTAsync_subscribe(m->client, filter, 1, &answer) == MQTTASYNC_SUCCESS ? ERR_NONE
                                                                                   : ERR_IO;
}

/* ---- events ---- */

/* A publish that has its answer, or has waited too long for it. */
static bool take_slot(struct mqtt *m, struct transport_event *out)
{
    uint64_t now = now_ms();
    for (uint32_t i = 0; i < TRANSPORT_WINDOW_MAX; i++) {
        struct slot *slot = &m->slot[i];
        int slot_state = atomic_load(&slot->state);
        bool is_late = slot_state == SLOT_BUSY && !slot->is_reported && m->link == LINK_CONNECTED &&
                       now - slot->sent_ms >= ANSWER_MS && now - m->connected_ms >= ANSWER_MS;
        if (slot_state != SLOT_ANSWERED && !is_late)
            continue;
        bool was_reported = slot->is_reported;
        *out = (struct transport_event){.kind = TRANSPORT_FAILED, .token = slot->token, .text = ""};
        if (is_late) {
            slot->is_reported = true; /* stays taken: Paho may still answer */
            out->err = ERR_TIMEOUT;
            m->counts.failed++;
            return true;
        }
        bool delivered = slot->is_delivered;
        int code = slot->reason_code;
        atomic_store(&slot->state, SLOT_FREE);
        if (was_reported)
            continue;
        out->reason_code = code > 0 ? (uint32_t)code : 0;
        if (delivered && code < 0x80) {
            out->kind = TRANSPORT_DELIVERED;
            m->counts.delivered++;
        } else {
            out->err = code == MQTTREASONCODE_NOT_AUTHORIZED ? ERR_AUDIENCE : ERR_IO;
            m->counts.failed++;
        }
        return true;
    }
    return false;
}

static bool take_record(struct mqtt *m, struct transport_event *out)
{
    struct header header;
    size_t size = 0;
    if (!ring_take(&m->ring, m->scratch, SCRATCH_MAX - 1, &size) || size < sizeof header)
        return false;
    memcpy(&header, m->scratch, sizeof header);
    uint8_t *body = m->scratch + sizeof header;
    size_t body_bytes = size - sizeof header;
    *out = (struct transport_event){.kind = header.kind,
                                    .err = (enum err)header.err,
                                    .reason_code = header.reason_code,
                                    .has_session = header.has_session != 0,
                                    .is_retained = header.is_retained != 0,
                                    .text = ""};
    if (header.kind == TRANSPORT_MESSAGE) {
        /* the payload moves up by one, so that the topic has room for its NUL */
        memmove(body + header.topic_bytes + 1, body + header.topic_bytes,
                body_bytes - header.topic_bytes);
        body[header.topic_bytes] = 0;
        out->topic = (const char *)body;
        out->payload = body + header.topic_bytes + 1;
        out->payload_bytes = body_bytes - header.topic_bytes;
        return true;
    }
    size_t n = body_bytes < TEXT_MAX - 1 ? body_bytes : TEXT_MAX - 1;
    memcpy(m->text, body, n);
    m->text[n] = 0;
    out->text = m->text;
    on_link_event(m, &header);
    if (header.kind == TRANSPORT_LOST && m->link == LINK_WAITING) {
        uint64_t now = now_ms();
        out->retry_ms = m->due_ms > now ? (uint32_t)(m->due_ms - now) : 0;
    }
    return true;
}

static enum err mqtt_next(void *state, struct transport_event *out)
{
    struct mqtt *m = state;
    uint64_t count;
    if (take_record(m, out) || take_slot(m, out))
        return ERR_NONE;
    /* empty: the eventfd is reset before the last look, so no wake-up is lost */
    if (read(m->event_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        return ERR_IO;
    return take_record(m, out) || take_slot(m, out) ? ERR_NONE : ERR_NOT_FOUND;
}

static void mqtt_counts(void *state, struct transport_counts *out)
{
    struct mqtt *m = state;
    *out = m->counts;
    out->received = atomic_load(&m->received);
    out->dropped = atomic_load(&m->dropped);
}

void mqtt_operations(struct mqtt *m, struct transport *out)
{
    *out = (struct transport){.state = m,
                              .fd = m->poll_fd,
                              .connect = mqtt_connect,
                              .step = mqtt_step,
                              .publish = mqtt_publish,
                              .subscribe = mqtt_subscribe,
                              .next = mqtt_next,
                              .counts = mqtt_counts};
}
