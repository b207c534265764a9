// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// openAccessLog opens where the access log goes, nil for nowhere. A file is
// opened anew at SIGHUP, for whoever rotates logs by renaming it.
// lost counts lines that a file could not take.
func openAccessLog(path string, stdout io.Writer, log *slog.Logger, lost prometheus.Counter) (io.WriteCloser, error) {
	switch path {
	case "off":
		return nil, nil
	case "-":
		return nopCloser{stdout}, nil
	}
	f, err := openLogFile(path)
	if err != nil {
		return nil, err
	}
	l := &logFile{path: path, f: f, log: log, lost: lost, hangup: make(chan os.Signal, 1)}
	signal.Notify(l.hangup, syscall.SIGHUP)
	l.done.Go(l.followSignals)
	return l, nil
}

func openLogFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("access log: %w; choose another file with -access-log", err)
	}
	return f, nil
}

// logFile is a log in a file that may be renamed.
type logFile struct {
	path   string
	log    *slog.Logger
	lost   prometheus.Counter
	hangup chan os.Signal
	done   sync.WaitGroup

	mu      sync.Mutex
	f       *os.File
	missing int  // lines since the file took the last one
	torn    bool // f ends within a line
}

// followSignals opens the file anew at every signal until Close. When that
// fails the log goes on in the old file: no line is lost.
func (l *logFile) followSignals() {
	for range l.hangup {
		f, err := openLogFile(l.path)
		if err != nil {
			l.log.Error("the access log goes on in the old file; mend this and send SIGHUP again", "error", err)
			continue
		}
		l.mu.Lock()
		old := l.f
		l.f, l.torn = f, false
		l.mu.Unlock()
		_ = old.Close()
	}
}

// Write implements io.Writer for a line. Where the file cannot take it, as on a disk
// that is full, it is counted, that is said once, and the gateway serves on.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := p
	if l.torn {
		line = append([]byte("\n"), p...) // what could be written of another one stands alone
	}
	n, err := l.f.Write(line)
	if err != nil {
		l.torn = l.torn || n > 0
		l.lost.Inc()
		if l.missing++; l.missing == 1 {
			l.log.Error("the access log loses lines; make room where it is, or give another file with -access-log", "error", err)
		}
		return 0, err
	}
	if l.missing > 0 {
		l.log.Info("the access log goes on", "lost", l.missing)
	}
	l.missing, l.torn = 0, false
	return len(p), nil
}

// Close implements io.Closer.
func (l *logFile) Close() error {
	signal.Stop(l.hangup)
	close(l.hangup)
	l.done.Wait()
	return l.f.Close()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
