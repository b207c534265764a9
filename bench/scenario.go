// SPDX-License-Identifier: Apache-2.0

package main

// Op is what a connection does with the backend.
type Op byte

// The operations. A backend reads with read(2) and answers in place.
const (
	Upload   Op = 'U' // the backend takes Size bytes and acknowledges the last
	Download Op = 'D' // the backend sends Size bytes
	Echo     Op = 'E' // the backend returns Count messages of Size bytes each
)

// Work is a fixed amount of work of every connection of a scenario.
type Work struct {
	Op    Op
	Size  int64 // bytes
	Count int64 // messages of Echo
}

// Scenario is one kind of load, the same for every peer and round.
type Scenario struct {
	Name        string
	Connections int
	// Warm is done on the same connections before the window.
	Warm, Measured Work
	// Unit is that of Per: the CPU time of one of which the scenario has Units.
	Unit string
	// Scale turns seconds of CPU per unit into the printed figure.
	Scale float64
}

// Units is how many units of work one window does over all connections: GB
// (1e9 bytes) in bulk, round trips of messages.
func (s Scenario) Units() float64 {
	if s.Measured.Op == Echo {
		return float64(s.Measured.Count) * float64(s.Connections)
	}
	return float64(s.Measured.Size) * float64(s.Connections) / 1e9
}

// scenarios are what a run measures, with the given share of the full work.
func scenarios(share float64) []Scenario {
	bulk := func(name string, op Op) Scenario {
		return Scenario{
			Name: name, Connections: 1, Unit: "s/GB", Scale: 1,
			Warm:     Work{Op: op, Size: scaled(64<<20, share)},
			Measured: Work{Op: op, Size: scaled(768<<20, share)},
		}
	}
	echo := func(name string, connections int, size, count int64) Scenario {
		perConnection := scaled(count/int64(connections), share)
		return Scenario{
			Name: name, Connections: connections, Unit: "µs/rt", Scale: 1e6,
			Warm:     Work{Op: Echo, Size: size, Count: max(perConnection/10, 1)},
			Measured: Work{Op: Echo, Size: size, Count: perConnection},
		}
	}
	return []Scenario{
		bulk("upload", Upload),
		bulk("download", Download),
		echo("100 B x 1", 1, 100, 20_000),
		echo("100 B x 16", 16, 100, 48_000),
	}
}

func scaled(full int64, share float64) int64 { return max(int64(float64(full)*share), 1) }
