// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// spinMain is the spinner process: one thread per CPU that runs whenever
// nothing else wants the CPU (SCHED_IDLE). A virtual CPU that halts costs tens
// of microseconds at its next wake-up, and whether it halts depends on chance:
// that noise would hide everything else in round trips. It spins until its
// standard input ends.
func spinMain(in *json.Decoder, out *json.Encoder) error {
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("read CPU affinity: %w", err)
	}
	runtime.GOMAXPROCS(cpus.Count() + 1) // one stays to wait for the parent
	started := make(chan error)
	for cpu := range len(cpus) * 64 {
		if cpus.IsSet(cpu) {
			go func() { started <- spin(cpu, started) }()
			if err := <-started; err != nil {
				return err
			}
		}
	}
	if err := out.Encode(true); err != nil {
		return err
	}
	_ = in.Decode(&struct{}{})
	return nil
}

// spin says on started that it begins and never returns, or returns an error.
func spin(cpu int, started chan<- error) error {
	runtime.LockOSThread()
	var only unix.CPUSet
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("bind spinner to CPU %d: %w", cpu, err)
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0); err != nil {
		return fmt.Errorf("make spinner idle class: %w", err)
	}
	started <- nil
	for n := 0; ; n++ {
	}
}
