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
)

// openAccessLog opens where the access log goes, nil for nowhere. A file is
// opened anew at SIGHUP, for whoever rotates logs by renaming it.
func openAccessLog(path string, stdout io.Writer, log *slog.Logger) (io.WriteCloser, error) {
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
	l := &logFile{path: path, f: f, hangup: make(chan os.Signal, 1)}
	signal.Notify(l.hangup, syscall.SIGHUP)
	l.done.Go(func() { l.followSignals(log) })
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
	hangup chan os.Signal
	done   sync.WaitGroup

	mu sync.Mutex
	f  *os.File
}

// followSignals opens the file anew at every signal until Close. When that
// fails the log goes on in the old file: no line is lost.
func (l *logFile) followSignals(log *slog.Logger) {
	for range l.hangup {
		f, err := openLogFile(l.path)
		if err != nil {
			log.Error("the access log goes on in the old file; mend this and send SIGHUP again", "error", err)
			continue
		}
		l.mu.Lock()
		old := l.f
		l.f = f
		l.mu.Unlock()
		_ = old.Close()
	}
}

// Write implements io.Writer.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
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
