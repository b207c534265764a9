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
}

func addProcessors(n int) {
	processors.mu.Lock()
	defer processors.mu.Unlock()
	processors.loops += n
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
}

// Processors returns GOMAXPROCS without those that loops have been given: how many
// processors the process may use. From the first loop on it follows the cgroup no more.
func Processors() int {
	processors.mu.Lock()
	defer processors.mu.Unlock()
	return runtime.GOMAXPROCS(0) - processors.loops
}
