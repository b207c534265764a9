// SPDX-License-Identifier: Apache-2.0

package gcm_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/terminator/record/gcm"
)

// vector is a case with a known answer; all is ciphertext and tag.
type vector struct {
	name                        string
	key, nonce, text, data, all []byte
	forged                      bool
}

func (v *vector) check(t *testing.T) {
	t.Helper()
	aead, err := gcm.New(v.key)
	if err != nil {
		t.Fatalf("%s: %v", v.name, err)
	}
	if got, err := aead.Open(nil, v.nonce, v.all, v.data); v.forged != (err != nil) || !v.forged && !bytes.Equal(got, v.text) {
		t.Errorf("%s: opened as %x, %v, want %x, forged %t", v.name, got, err, v.text, v.forged)
	}
	if v.forged {
		return
	}
	if got := aead.Seal(nil, v.nonce, v.text, v.data); !bytes.Equal(got, v.all) {
		t.Errorf("%s: sealed as %x, want %x", v.name, got, v.all)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNISTsAnswers(t *testing.T) {
	count, forged := 0, 0
	for _, name := range []string{"gcmEncryptExtIV128", "gcmEncryptExtIV256", "gcmDecrypt128", "gcmDecrypt256"} {
		f, err := os.Open("testdata/" + name + ".rsp.gz")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		// A case is lines of "name = value" between empty lines.
		var v vector
		var tag []byte
		lines := bufio.NewScanner(z)
		for more := true; more; {
			more = lines.Scan()
			field, value, _ := strings.Cut(lines.Text(), "=")
			value = strings.TrimSpace(value)
			switch strings.TrimSpace(field) {
			case "Count":
				v.name = name + " " + lines.Text()
			case "Key":
				v.key = unhex(t, value)
			case "IV":
				v.nonce = unhex(t, value)
			case "PT":
				v.text = unhex(t, value)
			case "AAD":
				v.data = unhex(t, value)
			case "CT":
				v.all = unhex(t, value)
			case "Tag":
				tag = unhex(t, value)
			case "FAIL":
				v.forged = true
			case "":
				if v.key == nil {
					continue
				}
				v.all = append(v.all, tag...)
				v.check(t)
				count++
				if v.forged {
					forged++
				}
				v = vector{}
			}
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if count != 1500 || forged != 387 {
		t.Errorf("%d cases, %d of them forged, want 1500 and 387", count, forged)
	}
}

func TestWycheproofsAnswers(t *testing.T) {
	text, err := os.ReadFile("testdata/aes_gcm_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			Tests []struct {
				TcID                               int
				Key, IV, AAD, Msg, Ct, Tag, Result string
			}
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, g := range file.TestGroups {
		for _, c := range g.Tests {
			v := vector{name: "Wycheproof " + c.Result, key: unhex(t, c.Key), nonce: unhex(t, c.IV), text: unhex(t, c.Msg), data: unhex(t, c.AAD),
				all: unhex(t, c.Ct+c.Tag), forged: c.Result == "invalid"}
			if c.Result != "valid" && c.Result != "invalid" {
				t.Errorf("case %d: result %q", c.TcID, c.Result)
			}
			v.check(t)
			count++
		}
	}
	if count != file.NumberOfTests || count != 143 {
		t.Errorf("%d cases, want %d", count, file.NumberOfTests)
	}
}
