// SPDX-License-Identifier: Apache-2.0

// Package servers tests Sluice in front of servers that people run, as Debian
// packages them, with the clients that people use. The tests have build tag
// servers, for they need those packages and minutes: make servers installs them
// and runs all.
package servers
