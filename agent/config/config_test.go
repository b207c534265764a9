// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/sluice-gateway/sluice/agent/config"
)

// good is a valid snapshot with something of everything.
func good() *config.Snapshot {
	s := &config.Snapshot{
		Listeners: []config.Listener{
			{Name: "a/gw/web", Port: 443, Protocol: config.HTTPS, Hostname: "www.example.com",
				BackendCertificate: "a/client",
				TLS: &config.ListenerTLS{Certificates: []string{"a/www"}, ALPN: []string{"h2", "http/1.1"},
					ClientValidation: &config.ClientValidation{Authorities: []string{"a/people", "a/machines"}}},
				L4: []config.HostRoute{{Route: "TCPRoute/a/rest"}},
				HTTP: []config.HTTPHost{{Hostname: "www.example.com", Rules: []config.HTTPRule{{Route: "HTTPRoute/a/web",
					Match: config.HTTPMatch{Path: "/"}, Backends: []config.HTTPBackendRef{{BackendRef: config.BackendRef{Backend: "a/web:80", Weight: 1}}}}}}}},
			{Name: "a/gw/redis", Port: 443, Protocol: config.TLS, TLS: &config.ListenerTLS{Certificates: []string{"a/www"}},
				L4: []config.HostRoute{{Hostname: "*.example.com", Route: "TLSRoute/a/redis"}, {Hostname: "b.example.com", Route: "TLSRoute/a/redis"}, {Route: "TCPRoute/a/rest"}}},
			{Name: "a/gw/pass", Port: 443, Protocol: config.TLS, Hostname: "*.example.org", TLS: &config.ListenerTLS{Passthrough: true}},
			{Name: "a/gw/tcp", Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")},
				Port: 6379, Protocol: config.TCP, L4: []config.HostRoute{{Route: "TCPRoute/a/rest"}}},
			{Name: "a/gw/http", Port: 80, Protocol: config.HTTP},
		},
		Routes: []config.Route{
			{Name: "TLSRoute/a/redis", Backends: []config.BackendRef{{Backend: "a/redis:6379", Weight: 1}, {Weight: 1}}},
			{Name: "TCPRoute/a/rest"},
		},
		Backends: []config.Backend{
			{Name: "a/web:80", TLS: &config.BackendTLS{Hostname: "web.example.com", Authorities: []string{"a/machines"},
				SubjectAltNames: []config.SubjectAltName{{URI: "spiffe://example.com/web"}, {Hostname: "*.example.com"}}}},
			{Name: "a/redis:6379", Endpoints: []config.Endpoint{{Host: "10.0.0.2", Port: 1}, {Host: "10.0.0.1", Port: 2}, {Host: "10.0.0.1", Port: 1}}},
		},
		Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")},
		Certificates: []config.Certificate{{Name: "a/www", Chain: []byte("chain"), Key: config.Secret("s3cr3t-key")},
			{Name: "a/client", Chain: []byte("chain"), Key: config.Secret("an0th3r-key")}},
		Authorities: []config.Authority{{Name: "a/people", Bundle: []byte("people")}, {Name: "a/machines", Bundle: []byte("machines")}},
	}
	s.Sort()
	return s
}

func TestValidateTakesASortedSnapshot(t *testing.T) {
	if err := good().Validate(); err != nil {
		t.Error(err)
	}
	if err := (&config.Snapshot{}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestAListenerThatIsNotServedNeedsNoCertificate(t *testing.T) {
	s := good()
	for i := range s.Listeners {
		if l := &s.Listeners[i]; l.Name == "a/gw/redis" {
			l.NotServed, l.L4, l.TLS = "mistake", nil, &config.ListenerTLS{}
		}
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	listener := func(s *config.Snapshot, name string) *config.Listener {
		i := slices.IndexFunc(s.Listeners, func(l config.Listener) bool { return l.Name == name })
		return &s.Listeners[i]
	}
	for name, c := range map[string]struct {
		change func(*config.Snapshot)
		want   []string
	}{
		"listeners out of order": {func(s *config.Snapshot) { s.Listeners[0], s.Listeners[1] = s.Listeners[1], s.Listeners[0] },
			[]string{"listener a/gw/http: out of order or given twice"}},
		"a route twice": {func(s *config.Snapshot) { s.Routes = append(s.Routes, s.Routes[1]) },
			[]string{"route TLSRoute/a/redis: out of order or given twice"}},
		"an address twice": {func(s *config.Snapshot) { s.Addresses[1] = s.Addresses[0] },
			[]string{"address 192.0.2.1: out of order or given twice"}},
		"an address of no listener": {func(s *config.Snapshot) { listener(s, "a/gw/tcp").Addresses = nil },
			[]string{"address 192.0.2.1: no listener has it", "address 2001:db8::1: no listener has it"}},
		"no name": {func(s *config.Snapshot) { s.Backends[0].Name = ""; s.Routes[1].Backends[0].Backend = "" },
			[]string{"backend 0: name is required"}},
		"no port": {func(s *config.Snapshot) { listener(s, "a/gw/http").Port = 0 },
			[]string{"listener a/gw/http: port is required"}},
		"an unknown protocol": {func(s *config.Snapshot) { listener(s, "a/gw/http").Protocol = "SCTP" },
			[]string{`listener a/gw/http: protocol "SCTP" is not one of HTTP, HTTPS, TLS, TCP, UDP`}},
		"UDP with a hostname": {func(s *config.Snapshot) {
			l := listener(s, "a/gw/tcp")
			l.Protocol, l.Hostname = config.UDP, "x"
		}, []string{"listener a/gw/tcp: protocol UDP takes no hostname"}},
		"TLS without tls": {func(s *config.Snapshot) { listener(s, "a/gw/pass").TLS = nil },
			[]string{"listener a/gw/pass: protocol TLS needs tls"}},
		"HTTP with tls": {func(s *config.Snapshot) { listener(s, "a/gw/http").TLS = &config.ListenerTLS{} },
			[]string{"listener a/gw/http: protocol HTTP takes no tls"}},
		"HTTPS passthrough": {func(s *config.Snapshot) { listener(s, "a/gw/web").TLS = &config.ListenerTLS{Passthrough: true} },
			[]string{"listener a/gw/web: protocol HTTPS takes no passthrough"}},
		"passthrough with a certificate": {func(s *config.Snapshot) { listener(s, "a/gw/pass").TLS.Certificates = []string{"a/www"} },
			[]string{"listener a/gw/pass: passthrough takes no certificates"}},
		"termination without certificate": {func(s *config.Snapshot) { listener(s, "a/gw/redis").TLS.Certificates = nil },
			[]string{"listener a/gw/redis: termination needs a certificate"}},
		"not served, and with a certificate": {func(s *config.Snapshot) { listener(s, "a/gw/redis").NotServed = "mistake" },
			[]string{"listener a/gw/redis: is not served (mistake) and has routes or certificates"}},
		"a certificate that does not exist": {func(s *config.Snapshot) { listener(s, "a/gw/web").TLS.Certificates = []string{"a/gone"} },
			[]string{"listener a/gw/web: certificate a/gone does not exist"}},
		"TCP with a hostname": {func(s *config.Snapshot) { listener(s, "a/gw/tcp").Hostname = "x" },
			[]string{"listener a/gw/tcp: protocol TCP takes no hostname"}},
		"TCP with HTTP rules": {func(s *config.Snapshot) { listener(s, "a/gw/tcp").HTTP = []config.HTTPHost{{}} },
			[]string{"listener a/gw/tcp: protocol TCP takes no HTTP rules"}},
		"HTTP with L4 routes": {func(s *config.Snapshot) { listener(s, "a/gw/http").L4 = []config.HostRoute{{Route: "TCPRoute/a/rest"}} },
			[]string{"listener a/gw/http: protocol HTTP takes no L4 routes"}},
		"routes and backends that do not exist": {func(s *config.Snapshot) { s.Routes, s.Backends = nil, nil },
			[]string{
				"listener a/gw/redis: route TLSRoute/a/redis does not exist",
				"listener a/gw/redis: route TLSRoute/a/redis does not exist",
				"listener a/gw/redis: route TCPRoute/a/rest does not exist",
				"listener a/gw/tcp: route TCPRoute/a/rest does not exist",
				"listener a/gw/web: route TCPRoute/a/rest does not exist",
				"listener a/gw/web: HTTPRoute/a/web: backend a/web:80 does not exist"}},
		"host names out of order": {func(s *config.Snapshot) { slices.Reverse(listener(s, "a/gw/redis").L4) },
			[]string{
				`listener a/gw/redis: route TLSRoute/a/redis: hostname "*.example.com" out of order or given twice`,
				`listener a/gw/redis: route TLSRoute/a/redis: hostname "b.example.com" out of order or given twice`}},
		"host names that are none": {func(s *config.Snapshot) {
			l := listener(s, "a/gw/redis")
			l.Hostname, l.L4 = "Www.example.com.", nil
			listener(s, "a/gw/pass").Hostname = "*."
		}, []string{
			`listener a/gw/pass: hostname "*." is neither a lower-case name nor *.name`,
			`listener a/gw/redis: hostname "Www.example.com." is neither a lower-case name nor *.name`}},
		"a weight out of bounds": {func(s *config.Snapshot) { s.Routes[1].Backends[0].Weight = -1 },
			[]string{"route TLSRoute/a/redis: backend a/redis:6379: weight -1 is not in 0 to 1000000"}},
		"an endpoint without port": {func(s *config.Snapshot) { s.Backends[0].Endpoints[0].Port = 0 },
			[]string{`backend a/redis:6379: endpoint "10.0.0.1" port 0: host and port are required`}},
		"a certificate without key": {func(s *config.Snapshot) { s.Certificates[1].Key = nil },
			[]string{"certificate a/www: chain and key are required"}},
		"an authority without certificates": {func(s *config.Snapshot) { s.Authorities[0].Bundle = nil },
			[]string{"authority a/machines: bundle is required"}},
		"authorities that do not exist": {func(s *config.Snapshot) { s.Authorities = s.Authorities[1:] },
			[]string{"listener a/gw/web: authority a/machines does not exist", "backend a/web:80: authority a/machines does not exist"}},
		"client validation by nobody": {func(s *config.Snapshot) { listener(s, "a/gw/web").TLS.ClientValidation.Authorities = nil },
			[]string{"listener a/gw/web: clientValidation needs an authority"}},
		"client validation with passthrough": {func(s *config.Snapshot) {
			listener(s, "a/gw/pass").TLS.ClientValidation = listener(s, "a/gw/web").TLS.ClientValidation
		}, []string{"listener a/gw/pass: passthrough takes no clientValidation"}},
		"a certificate for backends that does not exist": {func(s *config.Snapshot) { listener(s, "a/gw/tcp").BackendCertificate = "a/gone" },
			[]string{"listener a/gw/tcp: certificate a/gone does not exist"}},
		"TLS to a backend without name": {func(s *config.Snapshot) { s.Backends[1].TLS.Hostname = "" },
			[]string{"backend a/web:80: tls needs a hostname"}},
		"TLS to a backend whom nobody vouches for": {func(s *config.Snapshot) { s.Backends[1].TLS.Authorities = nil },
			[]string{"backend a/web:80: tls needs either authorities or system"}},
		"TLS to a backend with two kinds of authorities": {func(s *config.Snapshot) { s.Backends[1].TLS.System = true },
			[]string{"backend a/web:80: tls needs either authorities or system"}},
		"a subjectAltName of no kind": {func(s *config.Snapshot) { s.Backends[1].TLS.SubjectAltNames[1].Hostname = "" },
			[]string{"backend a/web:80: tls.subjectAltNames[1]: either hostname or uri is required"}},
		"a port that TCP has to itself": {func(s *config.Snapshot) {
			l := listener(s, "a/gw/tcp")
			l.Port, l.Addresses, s.Addresses = 80, nil, nil
		}, []string{"listener a/gw/tcp: port 80 is also used by listener a/gw/http with protocol HTTP"}},
		"two of UDP on a port": {func(s *config.Snapshot) {
			for _, name := range []string{"a/gw/http", "a/gw/tcp"} {
				l := listener(s, name)
				l.Protocol, l.Port, l.Addresses, l.HTTP = config.UDP, 53, listener(s, "a/gw/tcp").Addresses, nil
			}
		}, []string{"listener a/gw/tcp: port 53 is also used by listener a/gw/http with protocol UDP"}},
		"plain and encrypted on a port": {func(s *config.Snapshot) { listener(s, "a/gw/http").Port = 443 },
			[]string{
				"listener a/gw/pass: port 443 is also used by listener a/gw/http with protocol HTTP",
				"listener a/gw/redis: port 443 is also used by listener a/gw/http with protocol HTTP",
				"listener a/gw/web: port 443 is also used by listener a/gw/http with protocol HTTP"}},
		"a host name twice on a port": {func(s *config.Snapshot) { listener(s, "a/gw/redis").Hostname = "www.example.com" },
			[]string{`listener a/gw/web: port 443 hostname "www.example.com" is also used by listener a/gw/redis`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			c.change(s)
			err := s.Validate()
			if err == nil {
				t.Fatal("no problem found")
			}
			if diff := cmp.Diff(c.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSortGivesEqualContentOneHash(t *testing.T) {
	want := good().Hash()
	s := good()
	slices.Reverse(s.Listeners)
	slices.Reverse(s.Routes)
	slices.Reverse(s.Backends)
	slices.Reverse(s.Backends[0].Endpoints)
	slices.Reverse(s.Listeners[0].L4)
	slices.Reverse(s.Addresses)
	slices.Reverse(s.Authorities)
	s.Sort()
	if got := s.Hash(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(want) != 64 {
		t.Errorf("hash %q is not 64 digits", want)
	}
}

func TestHashChangesWithTheContent(t *testing.T) {
	seen := map[string]string{good().Hash(): "unchanged"}
	for name, change := range map[string]func(*config.Snapshot){
		"key":           func(s *config.Snapshot) { s.Certificates[0].Key = config.Secret("another") },
		"chain":         func(s *config.Snapshot) { s.Certificates[0].Chain = []byte("another") },
		"weight":        func(s *config.Snapshot) { s.Routes[1].Backends[0].Weight++ },
		"endpoint":      func(s *config.Snapshot) { s.Backends[0].Endpoints[0].Port++ },
		"authority":     func(s *config.Snapshot) { s.Authorities[0].Bundle = []byte("another") },
		"validation":    func(s *config.Snapshot) { s.Listeners[4].TLS.ClientValidation.Optional = true },
		"backend's TLS": func(s *config.Snapshot) { s.Backends[1].TLS.Hostname = "another" },
		"rule":          func(s *config.Snapshot) { s.Listeners[4].HTTP[0].Rules[0].Match.Method = "GET" },
		"order of certificates": func(s *config.Snapshot) {
			s.Listeners[4].TLS.Certificates = append(s.Listeners[4].TLS.Certificates, "a/www")
		},
	} {
		s := good()
		change(s)
		h := s.Hash()
		if other := seen[h]; other != "" {
			t.Errorf("%s: same hash as %s", name, other)
		}
		seen[h] = name
	}
}

func TestSecretsShowInNoFormat(t *testing.T) {
	s := good()
	shown := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		shown[verb+" of a secret"] = fmt.Sprintf(verb, s.Certificates[1].Key)
		shown[verb+" of a certificate"] = fmt.Sprintf(verb, s.Certificates[1])
		shown[verb+" of a snapshot"] = fmt.Sprintf(verb, *s)
	}
	inJSON, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	shown["JSON"] = string(inJSON)
	inYAML, err := yaml.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	shown["YAML"] = string(inYAML)
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"slog JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("m", "key", s.Certificates[1].Key, "certificate", s.Certificates[1], "snapshot", s)
		shown[name] = b.String()
	}
	secret := string(s.Certificates[1].Key)
	for name, text := range shown {
		for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"), "czNjcjN0LWtleQ"} {
			if strings.Contains(text, form) {
				t.Errorf("%s shows the key: %s", name, text)
			}
		}
	}
	if got := fmt.Sprint(s.Certificates[1].Key); got != "[redacted]" {
		t.Errorf("got %q", got)
	}
}

func TestMatchHostname(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a.example.com", true},
		{"a.example.com", "a.example.com", true}, {"a.example.com", "b.example.com", false}, {"a.example.com", "", false},
		{"*.example.com", "a.example.com", true}, {"*.example.com", "a.b.example.com", true},
		{"*.example.com", "example.com", false}, {"*.example.com", ".example.com", false}, {"*.example.com", "", false},
		{"*.example.com", "aexample.com", false},
	} {
		if got := config.MatchHostname(c.pattern, c.name); got != c.want {
			t.Errorf("MatchHostname(%q, %q) = %t", c.pattern, c.name, got)
		}
	}
}

func TestCompareHostnamesPutsTheMostSpecificFirst(t *testing.T) {
	want := []string{"b.a.example.com", "a.example.com", "b.example.com", "*.a.example.com", "*.example.com", "*.example.org", "*.com", ""}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, config.CompareHostnames)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}
