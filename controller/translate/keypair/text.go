// SPDX-License-Identifier: Apache-2.0

package keypair

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// text brings what a Secret or ConfigMap holds into the form that pem.Decode reads: lines
// that end in \n and begin at the margin, no byte order mark. It names what is
// not text at all.
func text(field string, in []byte, limit int) ([]byte, error) {
	in = bytes.TrimPrefix(in, []byte("\xEF\xBB\xBF"))
	switch {
	case len(in) == 0:
		return nil, fmt.Errorf("%s is missing or empty", field)
	case len(in) > limit:
		return nil, fmt.Errorf("%s has %d bytes, more than %d KiB", field, len(in), limit>>10)
	case bytes.HasPrefix(in, []byte{0xFF, 0xFE}) || bytes.HasPrefix(in, []byte{0xFE, 0xFF}):
		return nil, fmt.Errorf("%s is in UTF-16; save it as plain text (UTF-8)", field)
	}
	if !bytes.Contains(in, []byte("-----BEGIN")) {
		return nil, notPEM(field, in)
	}
	if bytes.IndexByte(in, 0) >= 0 {
		return nil, fmt.Errorf("%s contains NUL bytes; write it again as plain text", field)
	}
	in = bytes.ReplaceAll(in, []byte("\r\n"), []byte("\n"))
	in = bytes.ReplaceAll(in, []byte("\r"), []byte("\n"))
	var out []byte
	for line := range bytes.Lines(in) {
		out = append(append(out, bytes.TrimSpace(line)...), '\n')
	}
	return out, nil
}

// notPEM guesses what it is instead.
func notPEM(field string, in []byte) error {
	tool := map[string]string{"tls.crt": "x509", "ca.crt": "x509", "tls.key": "pkey"}[field]
	_, certificate := x509.ParseCertificate(in)
	key := errors.New("too large") // to check a key takes more than it is worth
	if len(in) <= maxKeyBytes {
		_, key = parseKey(in)
	}
	switch {
	case certificate == nil || key == nil:
		return fmt.Errorf("%s is DER, not PEM; convert it: openssl %s -inform der -in %s -out %s.pem", field, tool, field, field)
	case bytes.HasPrefix(bytes.TrimSpace(in), []byte("LS0tLS1CRUdJTi")) && field == "ca.crt":
		return fmt.Errorf("%s is encoded in base64; the data of a ConfigMap is plain text", field)
	case bytes.HasPrefix(bytes.TrimSpace(in), []byte("LS0tLS1CRUdJTi")):
		return fmt.Errorf("%s is encoded in base64 twice; put the PEM text into stringData, or its base64 into data once", field)
	case in[0] == 0x30:
		return fmt.Errorf("%s is binary (PKCS #12?), not PEM; convert it: openssl pkcs12 -in %s -out %s.pem -nodes", field, field, field)
	}
	return fmt.Errorf("%s is not PEM: it has no line -----BEGIN …-----; put the contents of the PEM file there", field)
}

// decode returns all PEM blocks. A damaged one is an error: pem.Decode would
// pass over it, and a chain with a hole would be served.
func decode(field string, in []byte) ([]*pem.Block, error) {
	var out []*pem.Block
	for {
		next := bytes.Index(in, []byte("-----BEGIN"))
		if next < 0 {
			break
		}
		end := len(in)
		if i := bytes.Index(in[next+1:], []byte("-----BEGIN")); i >= 0 {
			end = next + 1 + i
		}
		b, _ := pem.Decode(in[next:end])
		if b == nil {
			return nil, fmt.Errorf("%s: block %d is damaged or cut off", field, len(out)+1)
		}
		out = append(out, b)
		in = in[end:]
	}
	if len(out) == 0 {
		return nil, errors.New(field + " has no PEM block")
	}
	return out, nil
}
