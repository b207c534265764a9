// SPDX-License-Identifier: Apache-2.0

// Package e2e tests Sluice in a cluster, from kubectl apply to decrypted bytes.
// The tests have build tag e2e, for they need a cluster of their own: run.sh,
// which make e2e calls, starts it, runs them and ends it.
package e2e
