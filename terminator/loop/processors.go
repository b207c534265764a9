// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"runtime"
	"sync"
)

// A loop keeps a processor of Go's scheduler while it waits for a moment, so there is
// one more for each: the others are for whoever else has work.
var processors struct {
	mu    sync.Mutex
	loops int
	base  int // GOMAXPROCS before the first of them
}

func addProcessors(n int) {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loops == 0 {
		p.base = runtime.GOMAXPROCS(0)
	}
	p.loops += n
	runtime.GOMAXPROCS(p.base + p.loops)
}

// Processors returns how many processors the process may use: GOMAXPROCS without
// those that loops have been given. While there are loops it does not follow the
// cgroup.
func Processors() int {
	p := &processors
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loops > 0 {
		return p.base
	}
	return runtime.GOMAXPROCS(0)
}
