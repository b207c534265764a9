// SPDX-License-Identifier: Apache-2.0

package terminator

// reexec runs what a test needs a process of its own for.
func reexec() {}
