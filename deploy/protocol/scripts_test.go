// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bytes"
	"cmp"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// leftOut are scripts that measure times, and one whose conversations are others each
// time.
var leftOut = regexp.MustCompile(`timing|marvin|minerva|lucky13|bleichenbacher-workaround|fuzzed-plaintext`)

// runScript is a program that runs a script. Those without an option for the cipher
// suite have one with CBC; it gives them one that the gateway has, and a group to the
// one without any.
const runScript = `import runpy, sys
from tlslite.constants import CipherSuite as suites
suites.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA = suites.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
suites.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA = suites.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
sys.argv = sys.argv[1:]
if "test-rsa-pss-sigs-on-certificate-verify" in sys.argv[0]:
    from tlslite.constants import ExtensionType, GroupName
    from tlslite.extensions import SupportedGroupsExtension
    from tlsfuzzer.messages import ClientHelloGenerator
    def init(self, ciphers, extensions, init=ClientHelloGenerator.__init__):
        groups = SupportedGroupsExtension().create([GroupName.secp256r1])
        init(self, ciphers, extensions={**extensions, ExtensionType.supported_groups: groups})
    ClientHelloGenerator.__init__ = init
runpy.run_path(sys.argv[0], run_name="__main__")
`

// script is one of tlsfuzzer's, and what it is run with.
type script struct {
	name   string
	source []byte // without what all share
	client pair   // its certificate
	asks   asking // of its server
}

// String tells it from others.
func (s script) String() string {
	if s.client.name == "" {
		return s.name
	}
	return strings.Join([]string{s.name, s.client.name, cmp.Or(string(s.asks), "not asked")}, ", ")
}

// clients are the certificates of scripts that want another than client-rsa. Those
// that site.clients has not are tlsfuzzer's own: of keys that crypto/tls does not know,
// but for clientX509, which is of RSA.
var clients = map[string][]string{
	"test-certificate-request":                         {"client-rsa", "clientX509", "clientRSAPSS"},
	"test-dsa-in-certificate-verify":                   {"clientDSA"},
	"test-ecdsa-in-certificate-verify":                 {"client-ecdsa"},
	"test-eddsa-in-certificate-verify":                 {"client-ed25519", "serverEd448"},
	"test-rsa-pss-sigs-on-certificate-verify":          {"client-rsa", "clientRSAPSS"},
	"test-tls13-certificate-verify":                    {"client-rsa", "clientX509", "clientRSAPSS"},
	"test-tls13-ecdsa-brainpool-in-certificate-verify": {"serverBrainpoolP256r1EC"},
	"test-tls13-ecdsa-in-certificate-verify":           {"client-ecdsa"},
	"test-tls13-eddsa-in-certificate-verify":           {"client-ed25519", "serverEd448"},
	"test-tls13-mldsa-in-certificate-verify":           {"serverMldsa65"},
}

// askedLater are scripts that want to be asked after the handshake, if ever.
var askedLater = []string{"test-renegotiation-disabled-client-cert", "test-tls13-post-handshake-auth"}

// What crypto/tls puts into a CertificateRequest of TLS 1.2 and 1.3: algorithms of
// signatures, in its order.
const (
	algorithms12 = "rsa_pss_rsae_sha256 ecdsa_secp256r1_sha256 ed25519 rsa_pss_rsae_sha384 rsa_pss_rsae_sha512 " +
		"rsa_pkcs1_sha256 rsa_pkcs1_sha384 rsa_pkcs1_sha512 ecdsa_secp384r1_sha384 ecdsa_secp521r1_sha512"
	algorithms13 = "rsa_pss_rsae_sha256 ecdsa_secp256r1_sha256 ed25519 rsa_pss_rsae_sha384 rsa_pss_rsae_sha512 " +
		"ecdsa_secp384r1_sha384 ecdsa_secp521r1_sha512"
)

// options are what scripts are told about crypto/tls, or to leave out.
var options = map[string][]string{
	// An algorithm that is not the key's is illegal_parameter, not decrypt_error.
	"test-rsa-pss-sigs-on-certificate-verify": {"--illegpar"},
	// Extensions of CertificateRequest (18: timestamps, 47: authorities) and ServerHello.
	"test-tls13-certificate-request": {"-E", "status_request:CR 18:CR signature_algorithms_cert:CR 47:CR key_share:SH supported_versions:SH"},
	// Bombs take long, and random bytes are others each time.
	"test-tls13-client-certificate-compression": {"--skip-bombs", "--random-fuzz-size", "0", "--algorithms", "zlib"},
}

// scripts are those that are run, one that has a certificate of a client in each mode.
func (f *fuzzer) scripts(t *testing.T) (all []script) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(f.dir, "scripts/test-*.py"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		s := script{name: strings.TrimSuffix(filepath.Base(file), ".py")}
		if leftOut.MatchString(s.name) {
			continue
		}
		s.source, err = os.ReadFile(filepath.Join(f.dir, "tlsfuzzer/_apps", strings.ReplaceAll(s.name, "-", "_")+".py"))
		if err != nil {
			t.Fatal(err)
		}
		if !s.has("opt == '-k'") {
			all = append(all, s)
			continue
		}
		names, modes := clients[s.name], []asking{validOnly, anybody}
		if names == nil {
			names = []string{"client-rsa"}
		}
		if slices.Contains(askedLater, s.name) {
			modes = []asking{""}
		}
		for _, name := range names {
			own := filepath.Join(f.dir, "tests", name)
			s.client = cmp.Or(site.clients[name], pair{name, own + "Cert.pem", own + "Key.pem"})
			for _, s.asks = range modes {
				all = append(all, s)
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("no script in %s", f.dir)
	}
	return all
}

// servers are the subject, for each thing that a script may want to be asked.
func (s subject) servers(t *testing.T, to string) map[asking]running {
	t.Helper()
	all := map[asking]running{}
	for asks := range clientAuth {
		all[asks] = s.asking(asks).launch(t, to, site.pairs...)
	}
	return all
}

// has tells whether the script's source has a text.
func (s script) has(text string) bool { return bytes.Contains(s.source, []byte(text)) }

// arguments are those of Python: for some of the script's conversations, or for all.
func (f *fuzzer) arguments(s script, server running, only []string) []string {
	host, port, _ := net.SplitHostPort(server.address)
	args := []string{"-c", runScript, filepath.Join(f.dir, "scripts", s.name+".py"), "-h", host, "-p", port}
	old := !strings.HasPrefix(s.name, "test-tls13-") || s.name == "test-tls13-version-negotiation"
	switch {
	case old && s.has("opt == '-C'") && strings.Contains(s.name, "ecdsa"):
		args = append(args, "-C", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
	case old && s.has("opt == '-C'"):
		args = append(args, "-C", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")
	case s.has("opt == '-d'") || s.has(`opt == "-d"`):
		args = append(args, "-d") // ECDHE, not RSA
	}
	if s.has("opt == '--reply-AD-size'") {
		args = append(args, "--reply-AD-size", strconv.Itoa(len(answer)))
	}
	if s.client.name != "" {
		args = append(args, "-k", s.client.key, "-c", s.client.certificate)
	}
	switch {
	case s.client.name == "" || !s.has("opt == '-s'"):
	case s.client.name == "clientRSAPSS": // some go no further when there is no algorithm of such keys
	case old:
		args = append(args, "-s", algorithms12)
	default:
		args = append(args, "-s", algorithms13)
	}
	args = append(args, options[s.name]...)
	switch {
	case s.has("run_only") && len(only) > 0:
		if !s.has("num_limit = None") {
			args = append(args, "-n", "0") // it would choose some of them again
		}
		args = append(args, only...)
		if slices.ContainsFunc(only, func(name string) bool { return strings.HasPrefix(name, "sanity - ") }) {
			args = append(args, "sanity") // without it none of them is held
		}
	case s.has("num_limit = 1000"):
		args = append(args, "-n", "200") // lengths of records, bytes of certificates
	case strings.HasPrefix(s.client.certificate, f.dir):
		args = append(args, "-n", "10") // bytes of signatures that crypto/tls does not look at
	}
	return args
}
