// SPDX-License-Identifier: Apache-2.0

// Package protocol attacks Sluice by the TLS protocol: with the suites that TLS
// libraries are tested with, and with floods. What crypto/tls alone does, in a
// proxy of a few lines with the same configuration, is the reference in the same
// run. The tests have build tag protocol, for they need programs of others and
// minutes: make protocol installs them and runs all.
package protocol
