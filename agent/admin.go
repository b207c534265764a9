// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/terminator"
)

// listenAdmin opens the admin socket, mode 0600: who may open the file may ask
// the agent. A socket that a killed agent left behind is replaced, one that
// somebody answers on is not.
func listenAdmin(path string) (net.Listener, error) {
	if err := socketPath(path); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("admin socket %s: %s; choose another path with -admin", path, err)
	}
	// The lock makes looking and binding one step for agents that start at the
	// same time. It lies on the directory and so leaves nothing behind.
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %s; choose another path with -admin", path, err)
	}
	defer d.Close()
	if err := lockDirectory(d); err != nil {
		return nil, fmt.Errorf("admin socket %s: lock its directory: %s", path, err)
	}

	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("admin socket %s: another agent is running there; take over from it with -take-over, or choose another path with -admin", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("admin socket %s: exists and is not a socket; remove it or choose another path with -admin", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin socket %s: remove what a killed agent left: %s", path, err)
		}
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// bind gives the file the mode of the socket: no moment in which
		// others may connect.
		var chmodErr error
		err := c.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmodErr)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %s; choose another path with -admin", path, errno(err))
	}
	return l, nil
}

// lockPatience is longer than any agent holds the lock.
const lockPatience = 5 * time.Second

// lockDirectory waits for the lock no longer than agents hold it: to read the
// directory is enough to lock it, so any user could keep a gateway from starting.
func lockDirectory(d *os.File) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK):
			return err
		case time.Now().After(end):
			return nil
		}
	}
}

// socketPath refuses what the kernel would call an invalid argument: the path
// of a unix socket has its place in a structure (unix(7)).
func socketPath(path string) error {
	if most := len(unix.RawSockaddrUnix{}.Path) - 1; len(path) > most {
		return fmt.Errorf("admin socket %s: the path has %d bytes, and a socket's at most %d; choose a shorter one with -admin", path, len(path), most)
	}
	return nil
}

// adminHandler serves what "sluice status", conns, certs, explain and web show.
func (a *Agent) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.Status()) })
	mux.HandleFunc("GET /connections", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.Connections()) })
	mux.HandleFunc("GET /overview", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, a.Overview(r.FormValue("search"))) })
	mux.HandleFunc("GET /certificates", func(w http.ResponseWriter, r *http.Request) {
		c := Certificates{Names: a.opts.Server.Certificates(r.FormValue("name")), Certificates: []CertificateStatus{}}
		if current := a.current.Load(); current != nil {
			c.Certificates = append(c.Certificates, current.certificates...)
		}
		writeJSON(w, c)
	})
	mux.HandleFunc("GET /routes", func(w http.ResponseWriter, _ *http.Request) {
		if a.opts.Routes == nil {
			http.Error(w, "this agent serves what a controller publishes and has no route objects; ask with kubectl sluice explain route NAMESPACE/NAME", http.StatusNotFound)
			return
		}
		writeJSON(w, a.opts.Routes())
	})
	mux.HandleFunc("POST /explain", func(w http.ResponseWriter, r *http.Request) {
		var q terminator.Question
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		x, err := a.opts.Server.Explain(q)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		writeJSON(w, x)
	})
	mux.HandleFunc("GET /handover", a.serveHandover)
	if a.opts.Page != nil {
		mux.Handle("GET /", a.opts.Page(a))
	}
	// A browser comes by a port that somebody forwards to the socket.
	browsers := OnlyByAddress(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == adminHost {
			mux.ServeHTTP(w, r)
			return
		}
		browsers.ServeHTTP(w, r)
	})
}

// adminHost is what our own clients call the agent.
const adminHost = "agent"

// Certificates are those that a node serves, and which of them a name gets.
type Certificates struct {
	Names        []terminator.NamedCertificate `json:"names"`
	Certificates []CertificateStatus           `json:"certificates"`
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// An error here is the reader's going away.
	_ = json.NewEncoder(w).Encode(v)
}

// AdminClient returns a client for the admin socket at path. Requests go to
// "http://agent/status" and the like.
func AdminClient(path string) *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				if err := socketPath(path); err != nil {
					return nil, err
				}
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			},
		},
	}
}

// errno is the plain cause of a network error: the message around it names
// operation and object already.
func errno(err error) error {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return err
}
