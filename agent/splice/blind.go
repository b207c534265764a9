// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
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
	bpf.SpliceSlEvent
	due time.Time
}

// watch passes the kernel half's events on: it wakes writers, and resets
// connections whose backend does not see its redirected bytes. It returns when
// events is closed.
func (s *Splicer) watch(events *events) {
	var suspects []suspect
	for {
		next := time.Time{} // no deadline
		if len(suspects) > 0 {
			next = slices.MinFunc(suspects, func(a, b suspect) int { return a.due.Compare(b.due) }).due
		}
		event, err := events.next(next)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			s.log.Error("wait for splice events", "err", err)
			return
		case event.Sign == bpf.SpliceSlSignSlHasRead:
			s.hasRead(event.Flow)
			continue
		default:
			delay := blindUnknown
			switch event.How {
			case bpf.SpliceSlReaderSlBySplice:
				delay = blindSplice
			case bpf.SpliceSlReaderSlByFionread, bpf.SpliceSlReaderSlByPeeking:
				delay = 0 // it has been told already
			}
			suspects = append(suspects, suspect{event, time.Now().Add(delay)})
		}
		now := time.Now()
		suspects = slices.DeleteFunc(suspects, func(x suspect) bool {
			if now.Before(x.due) {
				return false
			}
			s.judge(x.SpliceSlEvent)
			return true
		})
	}
}

// judge resets the connection if its backend has read no redirected byte since
// the event and some still lie there, or was told by FIONREAD that none do.
func (s *Splicer) judge(blind bpf.SpliceSlEvent) {
	var flow bpf.SpliceSlFlow
	if err := s.objs.SlFlows.Lookup(blind.Flow, &flow); err != nil {
		return // ended
	}
	unread := unread(&flow)
	switch blind.How {
	case bpf.SpliceSlReaderSlByFionread:
	case bpf.SpliceSlReaderSlByPeeking:
		if unread == 0 {
			return
		}
	default:
		if unread == 0 || flow.Backend.Received != blind.Received {
			return
		}
	}
	c := s.connOf(blind.Flow)
	if c == nil {
		return // closed by the agent: its linger decides how
	}
	cause := "it reads neither by recvmsg(2) nor by splice(2)"
	switch blind.How {
	case bpf.SpliceSlReaderSlBySplice:
		cause = "it reads by splice(2)"
	case bpf.SpliceSlReaderSlByPeeking:
		cause = "it peeks or discards with SO_PEEK_OFF or MSG_TRUNC"
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
	if blind.How == bpf.SpliceSlReaderSlUnproven {
		if err := s.remember(&flow); err != nil {
			s.log.Warn("an endpoint's reader is not remembered", "err", err)
		}
	}
}

// remember notes at the flow's endpoint that its backend reads past recvmsg(2),
// where the kernel half has not seen how, as with io_uring's splice.
func (s *Splicer) remember(flow *bpf.SpliceSlFlow) error {
	addr, err := netip.ParseAddrPort(cString(flow.Endpoint[:]))
	if err != nil {
		return err
	}
	key := bpf.SpliceSlEndpointKey{Ip: addr.Addr().As16(), Port: addr.Port()}
	var e bpf.SpliceSlEndpoint
	s.endpoints.Lock()
	defer s.endpoints.Unlock()
	switch err := s.objs.SlEndpoints.Lookup(key, &e); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read endpoint %s: %w", addr, err)
	}
	e.Reader = bpf.SpliceSlReaderSlBySplice
	if err := s.objs.SlEndpoints.Put(key, &e); err != nil {
		return fmt.Errorf("write endpoint %s: %w", addr, err)
	}
	return nil
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
