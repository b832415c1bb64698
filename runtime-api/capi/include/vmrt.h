/*
 * vmrt.h - a container runtime that keeps every sandbox in a virtual machine, as a library.
 *
 *   dlopen ──► vmrt_get_api(2) ──► open ──► submit ... reap ... ──► close
 *
 * The library exports one symbol, which gives a table of functions. Requests and answers are the
 * protobuf messages of containerd.task.v2.Task (containerd, api/runtime/task/v2/shim.proto), so
 * that whoever speaks to a shim has them already. A request is submitted and, unless it is answered
 * at once, reaped later; a pending one costs no thread.
 *
 * Threads: every function may be called from any thread at any time, but for close, which must be
 * the last call of its instance. None of them blocks on a guest.
 *
 * Signals: the library installs no handler, its threads block all of them, and it never waits for
 * children that are not its own. It changes neither the working directory nor the environment, the
 * umask or any limit of the process.
 *
 * Memory: what the library hands out in vmrt_result.data is given back with free, and nothing else
 * is. What the caller hands in is read before the call returns and never kept.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef VMRT_H
#define VMRT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this table that a caller of this header asks for. */
#define VMRT_MAJOR 2u

/* One instance: what one daemon keeps in one state directory. */
typedef struct vmrt vmrt;

/*
 * What can be asked. 1 to 17 are the methods of containerd.task.v2.Task in its order, each with
 * its own request and response; `id` in them is the container, and the sandbox is the one that the
 * annotations in the bundle's config.json name (io.kubernetes.cri-o.SandboxID and its like).
 */
enum vmrt_method {
  VMRT_STATE = 1,
  VMRT_CREATE = 2, /* response: CreateTaskResponse with bytes token = 100, see VMRT_ATTACH */
  VMRT_START = 3,
  VMRT_DELETE = 4,
  VMRT_PIDS = 5,
  VMRT_PAUSE = 6,
  VMRT_RESUME = 7,
  VMRT_CHECKPOINT = 8,
  VMRT_KILL = 9,
  VMRT_EXEC = 10,
  VMRT_RESIZE_PTY = 11,
  VMRT_CLOSE_IO = 12,
  VMRT_UPDATE = 13,
  VMRT_WAIT = 14, /* pending until the process ends; there may be any number of them */
  VMRT_STATS = 15,
  VMRT_CONNECT = 16,
  VMRT_SHUTDOWN = 17, /* a daemon sends it after each deletion; nothing happens */

  /*
   * Comes back to a container after a restart of the daemon. Request: the token, as it is.
   * Response: StateResponse; its ref is new. The output goes on where it stopped, and an exit that
   * came meanwhile is told like any other, by Wait and by an event. NOT_FOUND means that its VM is
   * gone and its exit unknown; what was left of it has been removed then. Idempotent.
   */
  VMRT_ATTACH = 64,

  /*
   * Connects to a TCP port in a sandbox, also one bound to its loopback address. Request:
   * message { string id = 1; uint32 port = 2; } with the sandbox's id. The answer is in fd: one end
   * of a connected stream socket (AF_UNIX, close-on-exec), the caller's to close. UNAVAILABLE when
   * nothing listens there.
   */
  VMRT_DIAL = 65
};

/* vmrt_result.event: which message of containerd.events (api/events/task.proto) data holds. */
enum vmrt_event {
  VMRT_NO_EVENT = 0,
  VMRT_TASK_CREATE = 1,
  VMRT_TASK_START = 2,
  VMRT_TASK_OOM = 3,
  VMRT_TASK_EXIT = 4,
  VMRT_TASK_DELETE = 5,
  VMRT_TASK_EXEC_ADDED = 6,
  VMRT_TASK_EXEC_STARTED = 7,
  VMRT_TASK_PAUSED = 8,
  VMRT_TASK_RESUMED = 9
};

/* vmrt_result.code: the numbers of gRPC's status codes. No other one is answered. */
enum vmrt_code {
  VMRT_OK = 0,
  VMRT_CANCELLED = 1,
  VMRT_INVALID_ARGUMENT = 3,
  VMRT_DEADLINE_EXCEEDED = 4,
  VMRT_NOT_FOUND = 5,
  VMRT_ALREADY_EXISTS = 6,
  VMRT_FAILED_PRECONDITION = 9,
  VMRT_UNIMPLEMENTED = 12,
  VMRT_INTERNAL = 13, /* also a bug in the library: it has been contained, and logged */
  VMRT_UNAVAILABLE = 14
};

/* vmrt_options.log: levels. */
enum vmrt_level { VMRT_ERROR = 1, VMRT_WARN = 2, VMRT_INFO = 3, VMRT_DEBUG = 4, VMRT_TRACE = 5 };

/* A request. Everything in it belongs to the caller and is read before submit returns. */
typedef struct {
  uint64_t tag;        /* the caller's name for it, not 0, and not that of another pending request */
  uint64_t ref;        /* of an earlier result, or 0 to find the container by its id. A ref whose
                          container is gone is NOT_FOUND, also when the id is in use again */
  uint32_t method;     /* enum vmrt_method */
  uint32_t reserved;   /* 0 */
  uint64_t timeout_ns; /* how long the caller waits; 0: as long as it takes. To stop waiting leaves
                          the work to be finished */
  const uint8_t *data; /* the message; NULL when len is 0 */
  size_t len;
} vmrt_request;

/* An answer, or an event. The struct is the caller's; data and fd become the caller's with it. */
typedef struct {
  uint64_t tag;      /* of the request; 0: an event */
  uint64_t ref;      /* Create and Attach: what finds the container faster from now on, until it is
                        deleted or the instance closed. Otherwise that of the request */
  int32_t code;      /* enum vmrt_code */
  int32_t fd;        /* Dial: a socket, to close(2); else -1 */
  uint32_t event;    /* enum vmrt_event */
  uint32_t reserved; /* 0 */
  uint8_t *data;     /* code 0: the response or the event; else one line of UTF-8 for people.
                        Give it back with free(data, len). NULL when len is 0 */
  size_t len;
} vmrt_result;

/* How an instance is opened. Zero means the default everywhere but in size. */
typedef struct {
  size_t size;           /* sizeof(vmrt_options) of the header that the caller was compiled with */
  const char *config;    /* path of a configuration file (README, "Configuration"), NUL-terminated;
                            default: VMRT_CONFIG, else /etc/vmrt/config.toml, else built in */
  const char *state_dir; /* where sandboxes live, NUL-terminated, one instance at a time; the same
                            one finds them again. Default: /run/vmrt/library */
  uint32_t workers;      /* threads that do the work, for any number of sandboxes. Default: 2 */
  /* Called from any thread with one line, which is not NUL-terminated and valid for the call only.
     It must not call the table. Default: no log. */
  void (*log)(void *user, int level, const char *line, size_t len);
  void *log_user; /* handed to log; the caller's, to live until close returns */
} vmrt_options;

/* The table. It is constant and lives as long as the library is loaded. */
typedef struct {
  uint32_t major;      /* the major version that was asked for */
  uint32_t minor;      /* grows when functions or methods are added */
  size_t size;         /* of this table: a function beyond it is not there */
  const char *version; /* of the library, NUL-terminated, as "0.1.0" */

  /*
   * Opens an instance; *instance is the caller's until close, and NULL on failure. VMs whose owner
   * is gone and that nobody can attach to any more are cleaned up.
   * Returns 0 or an enum vmrt_code; why is told to log.
   */
  int (*open)(const vmrt_options *options, vmrt **instance);

  /*
   * The descriptor to poll(2) or epoll(7): readable as long as there is something to reap. It is
   * the library's: never read, write or close it.
   */
  int (*fd)(vmrt *instance);

  /*
   * Hands a request in. 1: *result is the answer already. 0: it will be reaped, exactly once.
   * A negative errno(3) when a pointer is NULL; nothing was done then.
   */
  int (*submit)(vmrt *instance, const vmrt_request *request, vmrt_result *result);

  /*
   * Takes up to max answers and events, in the order in which they came; returns how many. It
   * never blocks. The events of one container are in the order of its life: an exit comes after
   * its start, the exits of execs before that of their container.
   */
  size_t (*reap)(vmrt *instance, vmrt_result *results, size_t max);

  /*
   * Stops waiting for a request: it is reaped with VMRT_CANCELLED; its work goes on. Returns 0, or
   * VMRT_NOT_FOUND when there is none of that tag or its answer is there already.
   */
  int (*cancel)(vmrt *instance, uint64_t tag);

  /* Gives back vmrt_result.data. free(NULL, 0) does nothing. */
  void (*free)(uint8_t *data, size_t len);

  /*
   * Detaches: the VMs live on, and another instance on the same state directory can attach to
   * them. Answers that were not reaped are lost. The instance and its descriptor are gone.
   */
  void (*close)(vmrt *instance);
} vmrt_api;

/* The only symbol: the table of that major version, or NULL when the library has another one. */
const vmrt_api *vmrt_get_api(uint32_t major);

/* For dlsym(3). */
typedef const vmrt_api *(*vmrt_get_api_function)(uint32_t major);

#ifdef __cplusplus
}
#endif

#endif
