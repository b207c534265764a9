// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

// How long redirected bytes may lie after their reader has passed them by. A thread
// inside splice(2) will not come back for them. Without that proof the event
// may be a second reader that was faster than the books: a recvmsg that has
// already taken the bytes needs only to be scheduled again to say so.
const (
	blindSplice  = 50 * time.Millisecond
	blindUnknown = time.Second
)

type suspect struct {
	bpf.SpliceSlBlind
	due time.Time
}

// watch resets connections whose backend does not see its redirected bytes. It
// returns when events is closed.
func (s *Splicer) watch(events *ringbuf.Reader) {
	var (
		suspects []suspect
		record   ringbuf.Record
	)
	for {
		next := time.Time{} // no deadline
		if len(suspects) > 0 {
			next = slices.MinFunc(suspects, func(a, b suspect) int { return a.due.Compare(b.due) }).due
		}
		events.SetDeadline(next)
		err := events.ReadInto(&record)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err == nil:
			var blind bpf.SpliceSlBlind
			if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &blind); err != nil {
				s.log.Error("read splice event", "err", err)
				continue
			}
			delay := blindUnknown
			switch blind.How {
			case bpf.SpliceSlReaderSlBySplice:
				delay = blindSplice
			case bpf.SpliceSlReaderSlByFionread:
				delay = 0 // it has been told already
			}
			suspects = append(suspects, suspect{blind, time.Now().Add(delay)})
		case !errors.Is(err, os.ErrDeadlineExceeded):
			s.log.Error("wait for splice events", "err", err)
			return
		}
		now := time.Now()
		suspects = slices.DeleteFunc(suspects, func(x suspect) bool {
			if now.Before(x.due) {
				return false
			}
			s.judge(x.SpliceSlBlind)
			return true
		})
	}
}

// judge resets the connection if its backend has read no redirected byte since
// the event and some still lie there, or was told by FIONREAD that none do.
func (s *Splicer) judge(blind bpf.SpliceSlBlind) {
	var flow bpf.SpliceSlFlow
	if err := s.objs.SlFlows.Lookup(blind.Flow, &flow); err != nil {
		return // ended
	}
	unread := int64(flow.Agent.Spliced) - flow.Backend.SplicedRead
	fionread := blind.How == bpf.SpliceSlReaderSlByFionread
	if !fionread && (unread <= 0 || flow.Backend.SplicedRead != blind.SplicedRead) {
		return
	}
	c := s.connOf(blind.Flow)
	if c == nil {
		return // closed by the agent: its linger decides how
	}
	cause := "it reads neither by recvmsg(2) nor by splice(2)"
	switch blind.How {
	case bpf.SpliceSlReaderSlBySplice:
		cause = "it reads by splice(2)"
	case bpf.SpliceSlReaderSlByFionread:
		cause = "it asks FIONREAD, and this kernel leaves out bytes"
	}
	level := slog.LevelWarn
	if s.proving.Load() {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, "connection reset: its backend does not see bytes that are there", "cause", cause,
		"endpoint", cString(flow.Endpoint[:]), "route", cString(flow.Route[:]), "unread", unread)
	s.resets.Add(1)
	c.resetNow()
}

// connOf finds the connection of a flow: its key is the socket's cookie. The
// search is slow, so that connections, which are many, need not be indexed for
// resets, which are rare.
func (s *Splicer) connOf(flow uint64) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		found := false
		_ = c.raw.Control(func(fd uintptr) {
			cookie, err := unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
			found = err == nil && cookie == flow
		})
		if found {
			return c
		}
	}
	return nil
}

func cString(s []int8) string {
	b := make([]byte, 0, len(s))
	for _, c := range s {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
