// SPDX-License-Identifier: Apache-2.0

// Package quickstart has an app for the commands of README.md, and a test that
// runs them as they are printed there.
package quickstart
