// SPDX-License-Identifier: Apache-2.0

package splice

import "fmt"

// Why the splice is not to be had: labels of sluice_splice_state, stable.
const (
	ReasonKernel     = "kernel"     // too old, or built without what it needs
	ReasonBTF        = "btf"        // no kernel type information
	ReasonCapability = "capability" // CAP_BPF, CAP_PERFMON or CAP_NET_ADMIN is missing
	ReasonVerifier   = "verifier"   // this kernel's verifier refuses a program
	ReasonCgroup     = "cgroup2"    // no cgroup2, or no right to attach to it
	ReasonSelfTest   = "self_test"  // loads, but does not behave
	ReasonOff        = "off"        // not wanted, or closed
)

// Unavailable says that there is no splice on this machine, and why. The agent
// then relays by ordinary TCP.
type Unavailable struct {
	Reason string // one of the Reason constants
	Err    error
	Report Report // of the self-test, when that is the reason
}

func (u *Unavailable) Error() string {
	return "splice unavailable (" + u.Reason + "): " + u.Err.Error()
}

// Unwrap returns the cause.
func (u *Unavailable) Unwrap() error { return u.Err }

func unavailable(reason, format string, args ...any) error {
	return &Unavailable{Reason: reason, Err: fmt.Errorf(format, args...)}
}
