/*
 * A daemon in C, as small as it can be: it drives sandboxes through the table of vmrt.h.
 *
 *   host life LIBRARY CONFIG STATE ID BUNDLE OUTPUT      one whole life, step by step
 *   host hold LIBRARY CONFIG STATE (ID BUNDLE OUTPUT)... creates and starts each, tells its token,
 *                                                        and waits until it is killed
 *   host fuzz LIBRARY CONFIG STATE ID BUNDLE OUTPUT      hands in a hundred thousand broken messages
 *   host made LIBRARY CONFIG STATE (ID BUNDLE OUTPUT)... the same, but nothing is started
 *
 * The messages are those of containerd.task.v2.Task, written and read by hand.
 */
#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmrt.h"

static const vmrt_api *api;
static vmrt *instance;
static uint64_t last_tag;

static void fail(const char *what, const vmrt_result *result) {
  fprintf(stderr, "%s", what);
  if (result != NULL) fprintf(stderr, ": code %d: %.*s", result->code, (int)result->len, (char *)result->data);
  fputc('\n', stderr);
  exit(1);
}

static void log_line(void *user, int level, const char *line, size_t len) {
  (void)user;
  if (level <= VMRT_WARN) fprintf(stderr, "[%d] %.*s\n", level, (int)len, line);
}

/* Protobuf: fields of varints and of bytes, which is all that these messages need. */

typedef struct {
  uint8_t bytes[4096];
  size_t len;
} message;

static void varint(message *m, uint64_t value) {
  for (; value > 127; value >>= 7) m->bytes[m->len++] = (uint8_t)(value | 128);
  m->bytes[m->len++] = (uint8_t)value;
}

static void number(message *m, unsigned field, uint64_t value) {
  varint(m, field << 3);
  varint(m, value);
}

static void bytes(message *m, unsigned field, const void *data, size_t len) {
  if (m->len + len + 20 > sizeof m->bytes) fail("the message is too long", NULL);
  varint(m, field << 3 | 2);
  varint(m, len);
  memcpy(m->bytes + m->len, data, len);
  m->len += len;
}

static void text(message *m, unsigned field, const char *value) { bytes(m, field, value, strlen(value)); }

static uint64_t read_varint(const uint8_t *data, size_t len, size_t *at) {
  uint64_t value = 0;
  for (int shift = 0; *at < len && shift < 64; shift += 7) {
    uint8_t byte = data[(*at)++];
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) break;
  }
  return value;
}

/* Finds a field: its number, or the length of its bytes with *found at them. */
static uint64_t field_of(const vmrt_result *result, unsigned wanted, const uint8_t **found) {
  size_t at = 0;
  while (at < result->len) {
    uint64_t key = read_varint(result->data, result->len, &at);
    uint64_t value = read_varint(result->data, result->len, &at);
    if (key >> 3 == wanted) {
      if (found != NULL) *found = result->data + at;
      return value;
    }
    if ((key & 7) == 2) at += value;
  }
  return 0;
}

/* Asks and waits for the answer; events that come meanwhile are only counted. */
static unsigned events;

static vmrt_result ask(uint32_t method, const message *m, uint64_t ref) {
  vmrt_request request = {++last_tag, ref, method, 0, 120000000000u, m->bytes, m->len};
  vmrt_result result;
  int done = api->submit(instance, &request, &result);
  if (done < 0) fail("submit", NULL);
  while (!done) {
    struct pollfd ready = {api->fd(instance), POLLIN, 0};
    if (poll(&ready, 1, 120000) != 1) fail("there was no answer", NULL);
    if (api->reap(instance, &result, 1) == 0) continue;
    if (result.tag != 0) break;
    events += result.event != VMRT_NO_EVENT;
    api->free(result.data, result.len);
  }
  if (result.tag != last_tag) fail("an answer to another request", &result);
  return result;
}

static vmrt_result expect(int32_t code, const char *what, uint32_t method, const message *m, uint64_t ref) {
  vmrt_result result = ask(method, m, ref);
  if (result.code != code) fail(what, &result);
  return result;
}

static void done(const char *what, uint32_t method, const message *m, uint64_t ref) {
  vmrt_result result = expect(VMRT_OK, what, method, m, ref);
  api->free(result.data, result.len);
}

static message named(const char *id, const char *exec) {
  message m = {{0}, 0};
  text(&m, 1, id);
  if (exec != NULL) text(&m, 2, exec);
  return m;
}

static uint64_t create(const char *id, const char *bundle, const char *output, int tell) {
  message m = named(id, NULL);
  text(&m, 2, bundle);
  text(&m, 6, output);
  vmrt_result created = expect(VMRT_OK, "create", VMRT_CREATE, &m, 0);
  const uint8_t *token = NULL;
  uint64_t len = field_of(&created, 100, &token);
  if (created.ref == 0 || len == 0) fail("a creation without ref or token", NULL);
  if (tell) {
    printf("token %s ", id);
    for (uint64_t at = 0; at < len; at++) printf("%02x", token[at]);
    putchar('\n');
  }
  api->free(created.data, created.len);
  return created.ref;
}

static void load(const char *library, const char *config, const char *state) {
  void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) fail(dlerror(), NULL);
  vmrt_get_api_function get_api;
  void *symbol = dlsym(handle, "vmrt_get_api");
  memcpy(&get_api, &symbol, sizeof get_api);
  if (get_api == NULL || get_api(VMRT_MAJOR + 1) != NULL) fail("a symbol that serves every version", NULL);
  api = get_api(VMRT_MAJOR);
  if (api == NULL || api->size < sizeof *api) fail("this version is not served", NULL);
  vmrt_options options = {sizeof options, config, state, 0, log_line, NULL};
  if (api->open(&options, &instance) != 0) fail("open", NULL);
}

static uint64_t exit_code(const char *id, const char *exec, uint64_t ref) {
  message m = named(id, exec);
  vmrt_result waited = expect(VMRT_OK, "wait", VMRT_WAIT, &m, ref);
  uint64_t code = field_of(&waited, 1, NULL);
  api->free(waited.data, waited.len);
  return code;
}

static void exec(const char *id, uint64_t ref) {
  const char *process = "{\"args\":[\"sh\",\"-c\",\"exit 5\"],\"cwd\":\"/\",\"env\":[\"PATH=/bin\"],\"user\":{\"uid\":0,\"gid\":0}}";
  message spec = {{0}, 0}, m = named(id, "e");
  text(&spec, 1, "types.containerd.io/opencontainers/runtime-spec/1/Process");
  text(&spec, 2, process);
  bytes(&m, 7, spec.bytes, spec.len);
  done("exec", VMRT_EXEC, &m, ref);
  m = named(id, "e");
  done("start the exec", VMRT_START, &m, ref);
  if (exit_code(id, "e", ref) != 5) fail("the exec has another exit code", NULL);
  m = named(id, "e");
  done("delete the exec", VMRT_DELETE, &m, ref);
}

static void dial(const char *id) {
  message m = named(id, NULL);
  number(&m, 2, 7000);
  vmrt_result dialled = ask(VMRT_DIAL, &m, 0);
  for (int tries = 0; dialled.code == VMRT_UNAVAILABLE && tries < 200; tries++) {
    api->free(dialled.data, dialled.len);
    nanosleep(&(struct timespec){0, 50000000}, NULL);
    dialled = ask(VMRT_DIAL, &m, 0);
  }
  char echoed[5] = "";
  if (dialled.code != VMRT_OK || dialled.fd < 0) fail("dial", &dialled);
  if (write(dialled.fd, "hello", 5) != 5) fail("write to the port", NULL);
  for (size_t have = 0; have < 5;) {
    ssize_t count = read(dialled.fd, echoed + have, 5 - have);
    if (count <= 0) fail("read from the port", NULL);
    have += (size_t)count;
  }
  if (memcmp(echoed, "hello", 5) != 0) fail("the port says something else", NULL);
  close(dialled.fd);
}

/* SIGTERM, and SIGKILL when the time is over: two requests and a wait. */
static void stop(const char *id, uint64_t ref) {
  message m = named(id, NULL);
  number(&m, 3, 15);
  done("kill", VMRT_KILL, &m, ref);
  m = named(id, NULL);
  vmrt_request request = {++last_tag, ref, VMRT_WAIT, 0, 20000000000u, m.bytes, m.len};
  vmrt_result result;
  if (api->submit(instance, &request, &result) != 0) return;
  struct pollfd ready = {api->fd(instance), POLLIN, 0};
  do {
    if (poll(&ready, 1, 30000) != 1) fail("the wait has no deadline", NULL);
    if (api->reap(instance, &result, 1) == 0) continue;
    api->free(result.data, result.len);
  } while (result.tag != last_tag);
  if (result.code == VMRT_OK) return;
  number(&m, 3, 9);
  done("kill at the deadline", VMRT_KILL, &m, ref);
}

static void life(const char *id, const char *bundle, const char *output) {
  uint64_t ref = create(id, bundle, output, 0);
  message m = named(id, NULL);
  done("start", VMRT_START, &m, ref);
  exec(id, ref);
  vmrt_result stats = expect(VMRT_OK, "stats", VMRT_STATS, &m, ref);
  if (field_of(&stats, 1, NULL) == 0) fail("stats without figures", NULL);
  api->free(stats.data, stats.len);
  dial(id);
  stop(id, ref);
  if (exit_code(id, NULL, ref) != 7) fail("another exit code", NULL);
  done("delete", VMRT_DELETE, &m, ref);
  vmrt_result stale = expect(VMRT_NOT_FOUND, "a stale ref", VMRT_STATE, &m, ref);
  api->free(stale.data, stale.len);
  done("shutdown", VMRT_SHUTDOWN, &m, 0);
  api->free(NULL, 0);
  if (events < 5) fail("events are missing", NULL);
  puts("a whole life");
}

static uint64_t noise(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static int known_code(int32_t code) {
  static const int32_t codes[] = {0, 1, 3, 4, 5, 6, 9, 12, 14};
  for (size_t at = 0; at < sizeof codes / sizeof *codes; at++)
    if (codes[at] == code) return 1;
  return 0;
}

/* Noise, and messages of the right form with some bytes changed: every answer is one of the codes, and
   never that of a bug. Nothing is created, for there is no bundle of that name. */
static void fuzz(const char *id) {
  unsigned kinds[16] = {0};
  for (unsigned round = 0; round < 100000; round++) {
    message m = {{0}, 0};
    if (round % 2 == 0) {
      m.len = noise() % 64;
      for (size_t at = 0; at < m.len; at++) m.bytes[at] = (uint8_t)noise();
    } else {
      m = named(id, round % 4 == 1 ? NULL : "e");
      if (round % 8 == 1) text(&m, 2, "/no/such/bundle");
      number(&m, 3, noise() % 70);
      text(&m, 7, "{}");
      for (unsigned changes = noise() % 4; changes > 0; changes--) m.bytes[noise() % m.len] = (uint8_t)noise();
    }
    uint32_t method = round % 16 == 0 ? (uint32_t)noise() : 1 + noise() % 17;
    if (round % 16 == 1) method = VMRT_ATTACH;
    if (round % 16 == 2) method = VMRT_DIAL;
    vmrt_result result = ask(method, &m, noise() % 8 == 0 ? noise() : 0);
    if (!known_code(result.code)) fail("a code that none of these may have", &result);
    if (result.code == 0 && result.fd >= 0) fail("a socket to nowhere", &result);
    kinds[result.code]++;
    api->free(result.data, result.len);
  }
  if (kinds[VMRT_INVALID_ARGUMENT] < 1000 || kinds[VMRT_NOT_FOUND] < 1000) fail("the messages are all of one kind", NULL);
  printf("%u were no messages, %u named nothing\n", kinds[VMRT_INVALID_ARGUMENT], kinds[VMRT_NOT_FOUND]);
}

int main(int argc, char **argv) {
  if (argc < 8 || (argc - 5) % 3 != 0) fail("host life|hold|made|fuzz LIBRARY CONFIG STATE (ID BUNDLE OUTPUT)...", NULL);
  setvbuf(stdout, NULL, _IOLBF, 0);
  load(argv[2], argv[3], argv[4]);
  if (strcmp(argv[1], "life") == 0) {
    life(argv[5], argv[6], argv[7]);
    api->close(instance);
    return 0;
  }
  if (strcmp(argv[1], "fuzz") == 0) {
    fuzz(argv[5]);
    api->close(instance);
    return 0;
  }
  for (int at = 5; at < argc; at += 3) {
    uint64_t ref = create(argv[at], argv[at + 1], argv[at + 2], 1);
    message m = named(argv[at], NULL);
    if (strcmp(argv[1], "hold") == 0) done("start", VMRT_START, &m, ref);
  }
  puts("ready");
  for (;;) pause();
}
