// SPDX-License-Identifier: Apache-2.0

// Package workshop tests README.md, the page of the workshop, by doing what it
// says: its commands are run one after the other, and must show what it shows.
// These tests have build tag e2e, for they need a cluster of their own: run.sh,
// which make workshop calls, starts it, runs them and ends it.
package workshop
