// A daemon in Go, with cgo and nothing but the standard library: it drives a sandbox through the
// table of vmrt.h from many goroutines.
//
//	host LIBRARY CONFIG STATE ID BUNDLE OUTPUT
//
// Each request is a channel that one goroutine, which waits for the descriptor in Go's own poller,
// sends the answer to: a pending request blocks a goroutine and no thread.
package main

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
#include "vmrt.h"

static const vmrt_api *load(const char *path) {
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) return NULL;
  vmrt_get_api_function get_api = (vmrt_get_api_function)dlsym(handle, "vmrt_get_api");
  return get_api == NULL ? NULL : get_api(VMRT_MAJOR);
}

static int open_instance(const vmrt_api *api, const char *config, const char *state, vmrt **instance) {
  vmrt_options options = {sizeof options, config, state, 0, NULL, NULL};
  return api->open(&options, instance);
}

static int submit(const vmrt_api *api, vmrt *instance, uint64_t tag, uint64_t ref, uint32_t method,
                  const uint8_t *data, size_t len, vmrt_result *result) {
  vmrt_request request = {tag, ref, method, 0, 0, data, len};
  return api->submit(instance, &request, result);
}

static int fd_of(const vmrt_api *api, vmrt *instance) { return api->fd(instance); }
static size_t reap(const vmrt_api *api, vmrt *instance, vmrt_result *results, size_t max) {
  return api->reap(instance, results, max);
}
static void give_back(const vmrt_api *api, uint8_t *data, size_t len) { api->free(data, len); }
static void close_instance(const vmrt_api *api, vmrt *instance) { api->close(instance); }
*/
import "C"

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	goroutines = 64
	calls      = 200
	waits      = 1000
)

type answer struct {
	ref  uint64
	code int32
	fd   int
	data []byte
}

type daemon struct {
	api      *C.vmrt_api
	instance *C.vmrt
	lastTag  uint64
	pending  sync.Map // tag → chan answer
	events   int64
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func open(library, config, state string) *daemon {
	d := &daemon{api: C.load(C.CString(library))}
	if d.api == nil {
		fail("load %s", library)
	}
	if code := C.open_instance(d.api, C.CString(config), C.CString(state), &d.instance); code != 0 {
		fail("open: code %d", code)
	}
	go d.reap()
	return d
}

// take copies what the library has handed out, and gives it back.
func (d *daemon) take(result *C.vmrt_result) answer {
	data := C.GoBytes(unsafe.Pointer(result.data), C.int(result.len))
	C.give_back(d.api, result.data, result.len)
	return answer{uint64(result.ref), int32(result.code), int(result.fd), data}
}

func (d *daemon) reap() {
	// A copy, for the file closes it; the library's own stays as it is.
	fd, err := syscall.Dup(int(C.fd_of(d.api, d.instance)))
	if err != nil {
		fail("dup: %v", err)
	}
	syscall.SetNonblock(fd, true)
	signal := os.NewFile(uintptr(fd), "vmrt")
	connection, err := signal.SyscallConn()
	if err != nil {
		fail("watch the descriptor: %v", err)
	}
	var results [64]C.vmrt_result
	connection.Read(func(uintptr) bool {
		for {
			count := C.reap(d.api, d.instance, &results[0], C.size_t(len(results)))
			if count == 0 {
				return false
			}
			for at := range results[:count] {
				tag := uint64(results[at].tag)
				taken := d.take(&results[at])
				if tag == 0 {
					atomic.AddInt64(&d.events, 1)
				} else if waiting, found := d.pending.LoadAndDelete(tag); found {
					waiting.(chan answer) <- taken
				}
			}
		}
	})
}

func (d *daemon) call(method uint32, message []byte, ref uint64) answer {
	tag := atomic.AddUint64(&d.lastTag, 1)
	waiting := make(chan answer, 1)
	d.pending.Store(tag, waiting)
	var data *C.uint8_t
	if len(message) > 0 {
		data = (*C.uint8_t)(unsafe.Pointer(&message[0]))
	}
	var result C.vmrt_result
	done := C.submit(d.api, d.instance, C.uint64_t(tag), C.uint64_t(ref), C.uint32_t(method), data,
		C.size_t(len(message)), &result)
	switch {
	case done == 1:
		d.pending.Delete(tag)
		return d.take(&result)
	case done < 0:
		fail("submit: %d", done)
	}
	return <-waiting
}

func (d *daemon) must(what string, method uint32, message []byte, ref uint64) answer {
	got := d.call(method, message, ref)
	if got.code != C.VMRT_OK {
		fail("%s: code %d: %s", what, got.code, got.data)
	}
	return got
}

func varint(message []byte, value uint64) []byte {
	for ; value > 127; value >>= 7 {
		message = append(message, byte(value)|128)
	}
	return append(message, byte(value))
}

func text(message []byte, field uint64, value string) []byte {
	message = varint(varint(message, field<<3|2), uint64(len(value)))
	return append(message, value...)
}

func number(message []byte, field, value uint64) []byte {
	return varint(varint(message, field<<3), value)
}

func named(id string) []byte { return text(nil, 1, id) }

// exitCode reads field 1 of a WaitResponse or field 2 of a DeleteResponse.
func exitCode(message []byte, field byte) uint64 {
	for at := 0; at+1 < len(message); {
		key := message[at]
		value, size := uint64(0), 0
		for shift := 0; ; shift += 7 {
			size++
			value |= uint64(message[at+size]&127) << shift
			if message[at+size] < 128 {
				break
			}
		}
		at += 1 + size
		if key == field<<3 {
			return value
		}
		if key&7 == 2 {
			at += int(value)
		}
	}
	return 0
}

func (d *daemon) exec(id string, ref uint64) {
	process := `{"args":["sh","-c","exit 5"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0}}`
	spec := text(text(nil, 1, "types.containerd.io/opencontainers/runtime-spec/1/Process"), 2, process)
	exec := text(named(id), 2, "e")
	d.must("exec", C.VMRT_EXEC, text(exec, 7, string(spec)), ref)
	d.must("start the exec", C.VMRT_START, exec, ref)
	if code := exitCode(d.must("wait for the exec", C.VMRT_WAIT, exec, ref).data, 1); code != 5 {
		fail("the exec ends with %d", code)
	}
	d.must("delete the exec", C.VMRT_DELETE, exec, ref)
}

// dial forwards a port: what goes to 7000 comes back.
func (d *daemon) dial(id string) {
	dialled := d.call(C.VMRT_DIAL, number(named(id), 2, 7000), 0)
	for tries := 0; dialled.code == C.VMRT_UNAVAILABLE && tries < 200; tries++ {
		time.Sleep(50 * time.Millisecond)
		dialled = d.call(C.VMRT_DIAL, number(named(id), 2, 7000), 0)
	}
	if dialled.code != C.VMRT_OK {
		fail("dial: code %d: %s", dialled.code, dialled.data)
	}
	file := os.NewFile(uintptr(dialled.fd), "port")
	connection, err := net.FileConn(file)
	file.Close()
	if err != nil {
		fail("the socket of a port: %v", err)
	}
	defer connection.Close()
	echoed := make([]byte, 5)
	if _, err := connection.Write([]byte("hello")); err != nil {
		fail("write to the port: %v", err)
	}
	if _, err := io.ReadFull(connection, echoed); err != nil || string(echoed) != "hello" {
		fail("the port says %q: %v", echoed, err)
	}
}

// stop asks with SIGTERM, and insists with SIGKILL when the time is over.
func (d *daemon) stop(id string, ref uint64, patience time.Duration) {
	ended := make(chan answer, 1)
	go func() { ended <- d.call(C.VMRT_WAIT, named(id), ref) }()
	d.must("kill", C.VMRT_KILL, number(named(id), 3, 15), ref)
	select {
	case <-ended:
	case <-time.After(patience):
		d.must("kill at the deadline", C.VMRT_KILL, number(named(id), 3, 9), ref)
		<-ended
	}
}

func status(field string) string {
	all, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fail("%v", err)
	}
	for _, line := range strings.Split(string(all), "\n") {
		if rest := strings.TrimPrefix(line, field+":"); rest != line {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func threads() (count int) {
	fmt.Sscan(status("Threads"), &count)
	return count
}

func main() {
	if len(os.Args) != 7 {
		fail("host LIBRARY CONFIG STATE ID BUNDLE OUTPUT")
	}
	handlers := status("SigCgt")
	d := open(os.Args[1], os.Args[2], os.Args[3])
	if now := status("SigCgt"); now != handlers {
		fail("the handlers of signals were %s and are %s", handlers, now)
	}
	id := os.Args[4]
	created := d.must("create", C.VMRT_CREATE, text(text(named(id), 2, os.Args[5]), 6, os.Args[6]), 0)
	d.must("start", C.VMRT_START, named(id), created.ref)

	ended := make(chan answer, waits)
	before := threads()
	for i := 0; i < waits; i++ {
		go func() { ended <- d.call(C.VMRT_WAIT, named(id), created.ref) }()
	}
	var group sync.WaitGroup
	began := time.Now()
	for i := 0; i < goroutines; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < calls; i++ {
				d.must("state", C.VMRT_STATE, named(id), created.ref)
			}
		}()
	}
	group.Wait()
	each := time.Since(began) / (goroutines * calls)
	// Each goroutine that is inside a call has a thread for that moment; waiting takes none.
	if after := threads(); after > before+goroutines/4 {
		fail("%d threads before a thousand waits, %d after", before, after)
	}
	d.must("stats", C.VMRT_STATS, named(id), created.ref)
	d.exec(id, created.ref)
	d.dial(id)
	d.stop(id, created.ref, 20*time.Second)
	for i := 0; i < waits; i++ {
		if end := <-ended; end.code != C.VMRT_OK || exitCode(end.data, 1) != 7 {
			fail("a wait ends with code %d", end.code)
		}
	}
	if code := exitCode(d.must("delete", C.VMRT_DELETE, named(id), created.ref).data, 2); code != 7 {
		fail("deleted with exit code %d", code)
	}
	if gone := d.call(C.VMRT_STATE, named(id), created.ref); gone.code != C.VMRT_NOT_FOUND {
		fail("a stale ref: code %d", gone.code)
	}
	for i := 0; atomic.LoadInt64(&d.events) < 4; i++ {
		if i == 100 {
			fail("%d events", atomic.LoadInt64(&d.events))
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Printf("%d goroutines: %v for each State\n", goroutines, each)
}
