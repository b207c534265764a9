// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// openLoop sends messages at fixed times whatever becomes of them, rate a
// second over all clients in turn. A message's latency counts from the time
// when it was due: one that is late because others were late has waited, too
// (coordinated omission).
func openLoop(clients []*client, w Work, rate float64) error {
	if rate <= 0 {
		return fmt.Errorf("rate of %v messages a second", rate)
	}
	for _, c := range clients {
		if err := c.order(w); err != nil {
			return err
		}
	}
	schedule := schedule{start: time.Now().Add(5 * time.Millisecond), every: time.Duration(float64(time.Second) / rate)}
	var sendErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		if sendErr = sendOnTime(clients, w, schedule); sendErr != nil {
			for _, c := range clients {
				_ = c.conn.SetDeadline(time.Now()) // nobody waits for what was not sent
			}
		}
	})
	err := inParallel(len(clients), func(i int) error {
		c := clients[i]
		for m := range w.Count {
			if err := c.answer(m, w); err != nil {
				return err
			}
			due := schedule.due(m*int64(len(clients)) + int64(i))
			if err := c.latency.RecordValue(max(1, int64(time.Since(due)))); err != nil {
				return err
			}
		}
		return nil
	})
	wg.Wait()
	return errors.Join(sendErr, err)
}

type schedule struct {
	start time.Time
	every time.Duration
}

// due is when message n is to be sent.
func (s schedule) due(n int64) time.Time { return s.start.Add(time.Duration(n) * s.every) }

// sendOnTime sends from a thread of its own: Go's timers are late by up to a
// millisecond, the kernel's by what is set here.
func sendOnTime(clients []*client, w Work, s schedule) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	for n := range w.Count * int64(len(clients)) {
		for wait := time.Until(s.due(n)); wait > 0; wait = time.Until(s.due(n)) {
			ts := unix.NsecToTimespec(int64(wait))
			if err := unix.Nanosleep(&ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("sleep: %w", err)
			}
		}
		c, m := clients[n%int64(len(clients))], n/int64(len(clients))
		if _, err := c.conn.Write(c.pattern.at(m*w.Size, int(w.Size))); err != nil {
			return fmt.Errorf("send message %d: %w", n, err)
		}
	}
	return nil
}
