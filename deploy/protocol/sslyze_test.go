// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// weak are sslyze's findings, each with what it must be.
var weak = map[string]func(r finding) bool{
	"ssl_2_0_cipher_suites":      refused,
	"ssl_3_0_cipher_suites":      refused,
	"tls_1_0_cipher_suites":      refused,
	"tls_1_1_cipher_suites":      refused,
	"tls_1_2_cipher_suites":      modern,
	"tls_1_3_cipher_suites":      modern,
	"tls_compression":            func(r finding) bool { return !r.Compression },
	"tls_1_3_early_data":         func(r finding) bool { return !r.EarlyData },
	"openssl_ccs_injection":      func(r finding) bool { return !r.CCS },
	"heartbleed":                 func(r finding) bool { return !r.Heartbleed },
	"robot":                      func(r finding) bool { return r.Robot == "NOT_VULNERABLE_RSA_NOT_SUPPORTED" },
	"session_renegotiation":      func(r finding) bool { return r.SecureRenegotiation && !r.Renegotiation },
	"tls_extended_master_secret": func(r finding) bool { return r.EMS },
	"tls_fallback_scsv":          func(r finding) bool { return r.FallbackSCSV },
}

// finding is the result of one of sslyze's scans, whichever it is.
type finding struct {
	Supported bool    `json:"is_tls_version_supported"`
	Accepted  []suite `json:"accepted_cipher_suites"`

	Compression         bool   `json:"supports_compression"`
	EarlyData           bool   `json:"supports_early_data"`
	CCS                 bool   `json:"is_vulnerable_to_ccs_injection"`
	Heartbleed          bool   `json:"is_vulnerable_to_heartbleed"`
	Robot               string `json:"robot_result"`
	SecureRenegotiation bool   `json:"supports_secure_renegotiation"`
	Renegotiation       bool   `json:"is_vulnerable_to_client_renegotiation_dos"`
	EMS                 bool   `json:"supports_ems_extension"`
	FallbackSCSV        bool   `json:"supports_fallback_scsv"`
}

type suite struct {
	Suite struct{ Name string } `json:"cipher_suite"`
}

func refused(r finding) bool { return !r.Supported && len(r.Accepted) == 0 }

// modern wants a version that is served, with authenticated encryption and
// forward secrecy alone.
func modern(r finding) bool {
	return r.Supported && len(r.Accepted) > 0 && !slices.ContainsFunc(r.Accepted, func(s suite) bool {
		name := s.Suite.Name
		aead := strings.Contains(name, "_GCM_") || strings.Contains(name, "_CHACHA20_POLY1305_")
		return !aead || !strings.HasPrefix(name, "TLS_ECDHE_") && !strings.HasPrefix(name, "TLS_AES_") && !strings.HasPrefix(name, "TLS_CHACHA20_")
	})
}

var complaint = regexp.MustCompile(`(?m)^ +\* (\w+): (.*)$`)

// TestSSLyze scans the gateway, with an RSA and with an ECDSA certificate. It must
// have no weakness, and be what Mozilla calls "intermediate", but for P-521 and
// for the certificate, which is the test's.
func TestSSLyze(t *testing.T) {
	python := filepath.Join(install(t, "python"), "bin/python")
	for _, p := range site.pairs {
		t.Run(p.name, func(t *testing.T) {
			count := &figures.Figures{}
			figures.Record(t, count)
			server := gateway.launch(t, answering(t), p)
			file := filepath.Join(t.TempDir(), "out.json")
			text, _ := exec.Command(python, "-m", "sslyze", "--mozilla_config=intermediate", "--early_data", "--slow_connection",
				"--json_out="+file, server.address).CombinedOutput() // it fails for the certificate
			raw, err := os.ReadFile(file)
			var out struct {
				Servers []struct {
					Scans map[string]struct {
						Status string
						Result finding
					} `json:"scan_result"`
				} `json:"server_scan_results"`
			}
			if err == nil {
				err = json.Unmarshal(raw, &out)
			}
			if err != nil || len(out.Servers) != 1 {
				t.Fatalf("%v\n%s", err, text)
			}
			for name, ok := range weak {
				scan := out.Servers[0].Scans[name]
				count.Faults++
				if scan.Status != "COMPLETED" || !ok(scan.Result) {
					count.Failures++
					t.Errorf("%s: %s, %+v", name, scan.Status, scan.Result)
				}
			}
			if !strings.Contains(string(text), `Mozilla's "intermediate" configuration`) {
				t.Fatalf("nothing was compared with Mozilla's configuration:\n%s", text)
			}
			for _, c := range complaint.FindAllStringSubmatch(string(text), -1) {
				if what, problem := c[1], c[2]; !strings.HasPrefix(what, "certificate_") && !strings.Contains(problem, "curves {'secp521r1'} are") {
					count.Failures++
					t.Errorf("Mozilla's configuration: %s: %s", what, problem)
				}
			}
			count.What = "scans of sslyze; compared with Mozilla's intermediate configuration, too"
		})
	}
}
