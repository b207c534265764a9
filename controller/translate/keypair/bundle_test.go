// SPDX-License-Identifier: Apache-2.0

package keypair

import (
	"bytes"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

func TestParseBundleGivesTheSameForEveryFormOfTheSame(t *testing.T) {
	k, key := newKey(t)
	one, _ := issue(t, "one", nil, nil, k)
	two, _ := issue(t, "two", nil, nil, k)
	want, err := ParseBundle("ca.crt", append(bytes.Clone(one), two...))
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string][]byte{
		"again":           want.PEM,
		"twice":           bytes.Repeat(want.PEM, 2),
		"CR LF":           bytes.ReplaceAll(want.PEM, []byte("\n"), []byte("\r\n")),
		"byte order mark": append([]byte("\xEF\xBB\xBF"), want.PEM...),
		"text around":     append(append([]byte("# CAs\n"), one...), append([]byte("and\n"), two...)...),
		"a key beside":    append(bytes.Clone(key), want.PEM...),
	} {
		got, err := ParseBundle("ca.crt", in)
		if err != nil || !bytes.Equal(got.PEM, want.PEM) {
			t.Errorf("%s: %v, got\n%s", name, err, got.PEM)
		}
	}
	if w := want.Warnings(time.Now()); len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
	if w := want.Warnings(time.Now().Add(2 * time.Hour)); len(w) != 1 || !strings.Contains(w[0], "every CA certificate in it expired") {
		t.Errorf("warnings %q", w)
	}
}

func TestParseBundleSaysWhatIsWrong(t *testing.T) {
	k, key := newKey(t)
	one, c := issue(t, "one", nil, nil, k)
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"nothing", nil, "ca.crt is missing or empty"},
		{"a byte order mark", []byte("\xEF\xBB\xBF"), "ca.crt is missing or empty"},
		{"text", []byte("to follow"), "ca.crt is not PEM"},
		{"DER", c.Raw, "openssl x509 -inform der -in ca.crt"},
		{"base64", []byte("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"), "the data of a ConfigMap is plain text"},
		{"UTF-16", []byte("\xFF\xFE-\x00"), "UTF-16"},
		{"a key", key, "put the certificate of the CA there"},
		{"a damaged member", append(bytes.Clone(one), bytes.Replace(one, []byte("\nMII"), []byte("\nMXI"), 1)...), "certificate 2"},
		{"a member cut off", append(bytes.Clone(one), one[:len(one)/2]...), "block 2 is damaged or cut off"},
		{"a request", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: c.Raw}), "certificate request"},
		{"half a megabyte", append(bytes.Clone(one), bytes.Repeat([]byte("# comment\n"), 60_000)...), "more than 512 KiB"},
	} {
		if _, err := ParseBundle("ca.crt", tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}
