// SPDX-License-Identifier: Apache-2.0

// Package kernels runs tests of Sluice on other kernels than the machine's: those
// that Debian 12 ships, in a virtual machine that needs no hardware support. The
// tests have build tag kernels, for they need qemu and half an hour: make
// test-kernels installs it and runs all.
package kernels

// JobsFile is where the guest's first process finds its jobs, as JSON.
const JobsFile = "/jobs.json"

// FiguresDir is where the guest's jobs leave their figures.
const FiguresDir = "/figures"

// Modules are the kernel's modules that the guest loads, in this order, from
// /modules/NAME.ko. None of them depends on others.
var Modules = []string{"veth"}

// Job is a program for the guest to run.
type Job struct {
	Name    string
	Command []string
}

// Event is what the guest tells, a line of JSON each, by its second serial port.
type Event struct {
	Job  string `json:",omitempty"`
	Line string `json:",omitempty"` // that the job printed
	Exit *int   `json:",omitempty"` // status with which the job ended; -1: by a signal
	// Figures is a file of FiguresDir.
	Figures []byte `json:",omitempty"`
	Release string `json:",omitempty"` // of the kernel; comes first
	Failure string `json:",omitempty"` // of the guest itself
	Done    bool   `json:",omitempty"` // nothing comes after this
}
