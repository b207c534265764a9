// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
)

func TestHostnameIsWhatMatchHostnameWants(t *testing.T) {
	cases := map[string]string{
		"":                  "",
		"example.com":       "example.com",
		"Example.COM":       "example.com",
		"example.com.":      "example.com",
		"example.com:8443":  "example.com",
		"Example.com.:8443": "example.com",
		"10.0.0.1:80":       "10.0.0.1",
		"[::1]":             "[::1]",
		"[::1]:80":          "[::1]",
		":80":               "",
	}
	for in, want := range cases {
		if got := hostname(in); got != want {
			t.Errorf("hostname(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTheMostSpecificHostIsTakenAlone(t *testing.T) {
	host := func(name, path string) config.HTTPHost {
		return config.HTTPHost{Hostname: name, Rules: []config.HTTPRule{{Route: name, Match: config.HTTPMatch{Path: path}}}}
	}
	hosts := []config.HTTPHost{host("a.example.com", "/only"), host("*.b.example.com", "/"), host("*.example.com", "/"), host("", "/")}
	cases := []struct{ host, path, want string }{
		{"a.example.com", "/only", "a.example.com"},
		{"a.example.com", "/", "none"}, // not the rules of *.example.com
		{"x.example.com", "/", "*.example.com"},
		{"x.y.example.com", "/", "*.example.com"},
		{"x.b.example.com", "/", "*.b.example.com"},
		{"b.example.com", "/", "*.example.com"},
		{"example.com", "/", ""},
		{"", "/", ""},
		{"[::1]", "/", ""},
	}
	for _, c := range cases {
		got := "none"
		if rule := find(hosts, c.host, c.path, &http.Request{URL: &url.URL{}}); rule != nil {
			got = rule.Route
		}
		if got != c.want {
			t.Errorf("host %q path %q: rule of %q, want %q", c.host, c.path, got, c.want)
		}
	}
}

func TestMatchComparesAsTheGatewayAPISays(t *testing.T) {
	prefix := func(p string) config.HTTPMatch { return config.HTTPMatch{Path: p} }
	exact := func(p string) config.HTTPMatch { return config.HTTPMatch{Path: p, PathExact: true} }
	header := func(pairs ...string) config.HTTPMatch {
		var m config.HTTPMatch
		for i := 0; i < len(pairs); i += 2 {
			m.Headers = append(m.Headers, config.HTTPHeader{Name: pairs[i], Value: pairs[i+1]})
		}
		return m
	}
	query := func(pairs ...string) config.HTTPMatch { return config.HTTPMatch{Query: header(pairs...).Headers} }
	cases := []struct {
		name   string
		match  config.HTTPMatch
		target string
		header http.Header
		want   bool
	}{
		{"nothing asked", config.HTTPMatch{}, "/any", nil, true},
		{"prefix / takes every path", prefix("/"), "/any", nil, true},
		{"prefix itself", prefix("/abc"), "/abc", nil, true},
		{"prefix with slash", prefix("/abc"), "/abc/", nil, true},
		{"prefix with more elements", prefix("/abc"), "/abc/def", nil, true},
		{"prefix is by elements", prefix("/abc"), "/abcd", nil, false},
		{"prefix is case-sensitive", prefix("/abc"), "/ABC", nil, false},
		{"trailing slash of a prefix is ignored", prefix("/abc/"), "/abc", nil, true},
		{"trailing slash of a prefix is ignored 2", prefix("/abc/"), "/abc/d", nil, true},
		{"exact", exact("/abc"), "/abc", nil, true},
		{"exact is not a prefix", exact("/abc"), "/abc/", nil, false},
		{"exact keeps its slash", exact("/abc/"), "/abc", nil, false},
		{"exact with query", exact("/abc"), "/abc?x=/abc/", nil, true},
		{"encoded request, plain rule", exact("/a c"), "/a%20c", nil, true},
		{"encoded rule, other encoding", exact("/%61bc%20"), "/a%62c%20", nil, true},
		{"encoded slash counts as slash", prefix("/abc"), "/abc%2Fdef", nil, true},
		{"dot segments are resolved", prefix("/abc"), "/abc/../def", nil, false},
		{"dot segments are resolved 2", prefix("/def"), "/abc/../def", nil, true},
		{"encoded dots are resolved", prefix("/def"), "/abc/%2e%2E/def", nil, true},
		{"dots in names are not segments", exact("/.well-known/..x"), "/.well-known/..x", nil, true},
		{"method", config.HTTPMatch{Method: "GET"}, "/", nil, true},
		{"other method", config.HTTPMatch{Method: "POST"}, "/", nil, false},
		{"header", header("Version", "two"), "/", http.Header{"Version": {"two"}}, true},
		{"header values are case-sensitive", header("Version", "two"), "/", http.Header{"Version": {"Two"}}, false},
		{"no such header", header("Version", ""), "/", nil, false},
		{"all headers", header("A", "1", "B", "2"), "/", http.Header{"A": {"1"}}, false},
		{"repeated header is joined", header("A", "1,2"), "/", http.Header{"A": {"1", "2"}}, true},
		{"repeated header is not its first value", header("A", "1"), "/", http.Header{"A": {"1", "2"}}, false},
		{"host as a header", header("Host", "example.com"), "/", nil, true},
		{"query", query("animal", "whale"), "/?animal=whale&x=y", nil, true},
		{"query names are case-sensitive", query("animal", "whale"), "/?ANIMAL=whale", nil, false},
		{"query values are whole", query("animal", "whale"), "/?animal=whaledolphin", nil, false},
		{"query is decoded", query("animal", "blue whale"), "/?animal=blue%20whale", nil, true},
		{"first value of a repeated parameter", query("a", "1"), "/?a=1&a=2", nil, true},
		{"not the second value", query("a", "2"), "/?a=1&a=2", nil, false},
		{"all parameters", query("a", "1", "b", "2"), "/?b=2", nil, false},
		{"all parts", config.HTTPMatch{Path: "/p", Method: "GET", Query: query("a", "1").Query}, "/p?a=2", nil, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", c.target, nil)
			if c.header != nil {
				r.Header = c.header
			}
			u, ok := normalized(r.URL)
			if !ok {
				t.Fatal("target refused")
			}
			m := matcher{r: r, path: u.Path}
			if got := m.matches(&c.match); got != c.want {
				t.Errorf("matches %+v: %v, want %v", c.match, got, c.want)
			}
		})
	}
}

func TestNormalizedTargets(t *testing.T) {
	cases := []struct{ in, want string }{ // "" is refused
		{"/", "/"},
		{"/a/b/", "/a/b/"},
		{"/a//b", "/a//b"},
		{"//a", "//a"},
		{"/a/.", "/a/"},
		{"/a/..", "/"},
		{"/..", "/"},
		{"/../../a", "/a"},
		{"/a/./b/../../c/", "/c/"},
		{"/a/%2e%2e/b%2Fc", "/b%2Fc"},
		{"/a%2F../b", ""},
		{"/a/..%2fb", ""},
		{"/a%2F..%2F..%2Fb", ""},
		{"/...", "/..."},
		{"/a/..;/b", ""},
		{"/a/%2e%2E;x=1/b", ""},
		{"/a/.;", ""},
		{`/a\..\b`, ""},
		{"/a/..%5Cb", ""},
		{"/a%5C..", ""},
		{"/a/.b;x/c;..", "/a/.b;x/c;.."},
		{`/a\.b`, "/a%5C.b"},
		{"http://example.com", "/"},
		{"http://example.com/x", "/x"},
		{"x:opaque", ""},
	}
	for _, c := range cases {
		u, err := url.ParseRequestURI(c.in)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := normalized(u)
		if !ok {
			got = url.URL{}
		}
		if got.EscapedPath() != c.want {
			t.Errorf("%q becomes %q, want %q", c.in, got.EscapedPath(), c.want)
		}
	}
}

func TestPathChanges(t *testing.T) {
	full := func(p string) *config.HTTPPathChange { return &config.HTTPPathChange{Full: &p} }
	prefix := func(p string) *config.HTTPPathChange { return &config.HTTPPathChange{Prefix: p} }
	cases := []struct {
		path, match string
		change      *config.HTTPPathChange
		want        string
	}{
		// The table of HTTPPathModifier.ReplacePrefixMatch.
		{"/foo/bar", "/foo", prefix("/xyz"), "/xyz/bar"},
		{"/foo/bar", "/foo", prefix("/xyz/"), "/xyz/bar"},
		{"/foo/bar", "/foo/", prefix("/xyz"), "/xyz/bar"},
		{"/foo/bar", "/foo/", prefix("/xyz/"), "/xyz/bar"},
		{"/foo", "/foo", prefix("/xyz"), "/xyz"},
		{"/foo/", "/foo", prefix("/xyz"), "/xyz/"},
		{"/foo/bar", "/foo", prefix(""), "/bar"},
		{"/foo/", "/foo", prefix(""), "/"},
		{"/foo", "/foo", prefix(""), "/"},
		{"/foo/", "/foo", prefix("/"), "/"},
		{"/foo", "/foo", prefix("/"), "/"},

		{"/foo", "/", prefix("/xyz"), "/xyz/foo"},
		{"/", "/", prefix("/xyz"), "/xyz/"},
		{"/foo/bar", "", prefix("/xyz"), "/xyz/foo/bar"},
		{"/foo/bar", "/foo", prefix("xyz"), "/xyz/bar"},
		{"/f%6Fo/b%2Fr", "/foo", prefix("/x%20z"), "/x%20z/b%2Fr"},
		{"/f%20o/bar", "/f%20o", prefix("/x z"), "/x%20z/bar"},
		{"/foo/bar", "/foo", full("/one"), "/one"},
		{"/foo/bar", "/foo", full(""), "/"},
		{"/foo/bar", "/foo", full("/o%zz?#"), "/o%25zz%3F%23"},
		{"/foo/b%2Fr", "/foo", nil, "/foo/b%2Fr"},
	}
	for _, c := range cases {
		u, err := url.ParseRequestURI(c.path)
		if err != nil {
			t.Fatal(err)
		}
		changePath(u, &config.HTTPMatch{Path: c.match}, c.change)
		if got := u.EscapedPath(); got != c.want {
			t.Errorf("%s, match %q, change %+v: %q, want %q", c.path, c.match, c.change, got, c.want)
		}
	}
}

func TestHeaderChangesLeaveFramingAlone(t *testing.T) {
	h := http.Header{"A": {"1"}, "B": {"1", "2"}, "C": {"1"}, "Content-Length": {"7"}}
	change(h, &config.HTTPHeaders{
		Remove: []string{"a", "content-length"},
		Set:    []config.HTTPHeader{{Name: "b", Value: "3"}, {Name: "Content-Length", Value: "9"}, {Name: "transfer-encoding", Value: "chunked"}},
		Add:    []config.HTTPHeader{{Name: "C", Value: "2"}, {Name: "D", Value: "1"}, {Name: "Content-Length", Value: "9"}},
	})
	want := http.Header{"B": {"3"}, "C": {"1", "2"}, "D": {"1"}, "Content-Length": {"7"}}
	if d := cmp.Diff(want, h); d != "" {
		t.Error(d)
	}
}

func TestWeightsShareTheRequests(t *testing.T) {
	if choose(nil) != nil || choose(refs("a", 0, "b", 0)) != nil {
		t.Error("backends without weight are chosen")
	}
	count := map[string]int{}
	const n = 40_000
	for range n {
		count[choose(refs("a", 1, "never", 0, "b", 3)).Backend]++
	}
	if count["never"] != 0 || count["a"] < n/5 || count["a"] > n*3/10 {
		t.Errorf("weights 1, 0 and 3 gave %v", count)
	}
}
