// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/pem"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Where crypto/x509 looks first.
const rootsPath = "/etc/ssl/certs/ca-certificates.crt"

// roots returns Mozilla's CA certificates as go.mod pins them, whatever this
// machine has. Those that Mozilla trusts within limits only are left out, since
// a file of certificates cannot say so.
func roots() []byte {
	var b bytes.Buffer
	for r := range bundle.Roots() {
		if r.Constraint == nil {
			b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate}))
		}
	}
	return b.Bytes()
}
