// SPDX-License-Identifier: Apache-2.0

//go:build profile

package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
)

// A process of this build leaves a CPU profile of itself in SLUICE_PROFILES when it
// is told to end (bench/profile.sh).
func init() {
	f, err := os.Create(filepath.Join(os.Getenv("SLUICE_PROFILES"), fmt.Sprint(os.Getpid())))
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "no profile:", err)
		os.Exit(1)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-told
		pprof.StopCPUProfile()
		_ = f.Close()
	}()
}
