// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/bench/figures"
)

// T23: the private key of a Secret is nowhere but in the Secret and in the memory of
// the gateway: not in what any command, endpoint or log says, of good Secrets and of
// bad ones, nor in a file, nor in what a gateway leaves that is made to dump its
// goroutines. How much of it memory still has a minute after the Secret is gone is
// counted, not held.
func TestAPrivateKeyIsNowhere(t *testing.T) {
	count := &figures.Figures{}
	figures.Record(t, count)
	t.Setenv("GOTRACEBACK", "crash") // says most, and would leave a core
	t.Setenv("TMPDIR", t.TempDir())
	logs := t.TempDir()
	p := newPair(t, "-log-level", "debug", "-access-log", filepath.Join(logs, "access"))
	s := scan{pair: p, T: t, needles: needles(t, p.key), logs: logs}
	for _, secret := range []string{"changing.yaml", "pem"} {
		content := p.pkcs8(t)
		if secret != "pem" {
			content = s.read(filepath.Join(p.g.dir, "conf", secret))
		}
		if s.hits(content) == 0 {
			t.Fatalf("nothing is found in %s, which has the key", secret)
		}
	}
	served, _ := s.memory()
	if served == 0 {
		t.Fatal("nothing is found in the memory of a gateway that serves the key")
	}

	s.use()
	s.everything("while it is served")
	for name, secret := range s.mistakes() {
		p.g.write("mistake.yaml", secret)
		path := filepath.Join(p.g.dir, "conf", "mistake.yaml")
		waitFor(t, func() string {
			if strings.Contains(p.g.status(), "mistake") {
				return ""
			}
			return "no word about " + name
		})
		s.command("lint", "-f", path)
		s.get(name+": /status", agent.AdminClient(p.g.admin()), "http://agent/status")
		s.get(name+": /overview", agent.AdminClient(p.g.admin()), "http://agent/overview")
		s.files(name)
	}
	for _, gone := range []string{"mistake.yaml", "changing.yaml", "beside.yaml"} {
		if err := os.Remove(filepath.Join(p.g.dir, "conf", gone)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() string {
		c, err := p.g.connectTo("changing.example.com", nil)
		if err != nil {
			return ""
		}
		c.Close()
		return "the certificate is served without its Secret"
	})
	s.everything("after it is gone")

	wait := time.Second
	if full {
		wait = time.Minute
	}
	atOnce, _ := s.memory()
	time.Sleep(wait)
	later, forms := s.memory()
	limits := string(s.read(fmt.Sprintf("/proc/%d/limits", p.g.cmd.Process.Pid)))
	if core := strings.Join(strings.Fields(limits[strings.Index(limits, "Max core"):])[:6], " "); core != "Max core file size 0 0" {
		t.Errorf("the limit is: %s", core)
	}
	err := p.g.end(syscall.SIGQUIT)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).CoreDump() {
		t.Errorf("the gateway ended with a core: %v", err)
	}
	if !strings.Contains(p.g.logged(), "goroutine 1 ") {
		t.Error("no goroutine dump")
	}
	s.files("after SIGQUIT")
	count.Bytes, count.Failures = s.read64, s.found
	count.What = fmt.Sprintf("%d texts and files, %d mistakes; copies in memory while it is served: %d, once the Secret is gone: %d, %v later: %d (%s)",
		s.texts, len(s.mistakes()), served, atOnce, wait, later, strings.Join(forms, ", "))
	t.Log(count.What)
}

// scan looks for a key.
type scan struct {
	*pair
	*testing.T
	needles map[string][][]byte // by form
	logs    string

	texts         int
	read64, found int64 // bytes that were searched, and texts with a hit
}

// needles are parts of a key in all the forms that it might be seen in, each long
// enough not to be there by chance.
func needles(t *testing.T, key *ecdsa.PrivateKey) map[string][][]byte {
	t.Helper()
	scalar, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][][]byte{}
	add := func(form string, parts ...[]byte) { out[form] = append(out[form], parts...) }
	little := slices.Clone(scalar)
	slices.Reverse(little)
	add("raw", scalar[:16], scalar[16:])
	add("limbs", little[:16], little[16:])
	block := bytes.Split(pkcs8(t, key), []byte("\n"))
	add("PEM", block[1][48:]) // the scalar begins at byte 36
	for shift := range 3 {
		add("base64 of PEM", []byte(base64.StdEncoding.EncodeToString(block[1][40+shift:61+shift])))
	}
	for at := 0; at+12 <= len(scalar); at++ { // wherever a line breaks, and a group of three begins
		part := scalar[at : at+12]
		once := []byte(base64.StdEncoding.EncodeToString(part))
		add("base64", once, []byte(base64.URLEncoding.EncodeToString(part)))
		for shift := range 3 {
			add("base64 of base64", []byte(base64.StdEncoding.EncodeToString(once[shift:shift+12])))
		}
	}
	for at := 0; at < len(scalar); at += 8 {
		part := scalar[at : at+8]
		add("hex", fmt.Appendf(nil, "%x", part), fmt.Appendf(nil, "%X", part), fmt.Appendf(nil, "% x", part),
			fmt.Appendf(nil, "0x%x", binary.LittleEndian.Uint64(part)), fmt.Appendf(nil, "0x%x", binary.BigEndian.Uint64(part)))
		list := strings.Trim(fmt.Sprintf("%d", part), "[]")
		add("decimal", []byte(list), []byte(strings.ReplaceAll(list, " ", ",")), []byte(strings.ReplaceAll(list, " ", ", ")))
	}
	add("decimal", []byte(new(big.Int).SetBytes(scalar).String()[:20]))
	return out
}

func (s *scan) hits(in []byte) (n int) {
	for _, parts := range s.needles {
		for _, part := range parts {
			n += bytes.Count(in, part)
		}
	}
	return n
}

// look wants no hit in a text.
func (s *scan) look(what string, in []byte) {
	s.Helper()
	s.texts++
	s.read64 += int64(len(in))
	for form, parts := range s.needles {
		if slices.ContainsFunc(parts, func(part []byte) bool { return bytes.Contains(in, part) }) {
			s.found++
			s.Errorf("%s has the key in %s", what, form)
		}
	}
}

func (s *scan) read(path string) []byte {
	s.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	return b
}

// use has clients of several kinds.
func (s *scan) use() {
	for range 5 {
		s.serial(s.T, "changing.example.com")
	}
	_ = talk(s.g.port, "unknown.example.com")
	c, err := net.Dial("tcp", "127.0.0.1:"+s.g.port)
	if err != nil {
		s.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	_, _ = io.ReadAll(c)
}

// everything looks at all that the gateway says and leaves.
func (s *scan) everything(when string) {
	s.Helper()
	for _, args := range [][]string{{"status"}, {"status", "-o", "json"}, {"status", "-o", "yaml"}, {"conns"}, {"conns", "-o", "json"}, {"conns", "-o", "yaml"},
		{"certs"}, {"certs", "-o", "json"}, {"web", "-o", "json"}, {"explain", "conn", "-sni", "changing.example.com", s.g.port},
		{"explain", "conn", "-o", "json", "-sni", "changing.example.com", s.g.port}, {"explain", "route", "default/names"}} {
		s.command(append(args, "-admin", s.g.admin())...)
	}
	for _, path := range []string{"status", "connections", "overview", "certificates", "routes", "", "debug", "debug/pprof/", "debug/pprof/heap", "debug/vars", "metrics"} {
		s.get(when+": /"+path+" of the admin socket", agent.AdminClient(s.g.admin()), "http://agent/"+path)
		s.get(when+": /"+path+" beside the metrics", http.DefaultClient, "http://"+s.metrics+"/"+path)
	}
	s.files(when)
}

func (s *scan) command(args ...string) {
	s.Helper()
	out, _ := exec.Command("sluice", args...).CombinedOutput() // whatever its exit status
	s.look(strings.Join(args, " "), out)
}

func (s *scan) get(what string, client *http.Client, url string) {
	s.Helper()
	resp, err := client.Get(url)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	s.look(what, body)
}

// files looks into those that the gateway may have written, its logs among them.
func (s *scan) files(when string) {
	s.Helper()
	process := fmt.Sprintf("/proc/%d/", s.g.cmd.Process.Pid)
	for _, root := range []string{s.g.dir, s.logs, os.Getenv("TMPDIR"), "/dev/shm"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil && root != "/dev/shm":
				return err
			case err != nil, d.IsDir() && path == filepath.Join(s.g.dir, "conf"):
				return fs.SkipDir
			case d.Type().IsRegular():
				s.look(when+": "+path, s.read(path))
			}
			return nil
		})
		if err != nil {
			s.Fatal(err)
		}
	}
	for _, name := range []string{"environ", "cmdline"} {
		if b, err := os.ReadFile(process + name); err == nil { // else it has ended
			s.look(when+": "+name, b)
		}
	}
}

// mistakes are Secrets that say too much when their errors quote them.
func (s *scan) mistakes() map[string][]byte {
	key, chain := s.pkcs8(s.T), s.certificate(s.T)
	other, err := newCertificate(time.Now().Add(time.Hour), serverName)
	if err != nil {
		s.Fatal(err)
	}
	block := strings.Split(strings.TrimSpace(string(key)), "\n")
	body := block[1] + block[2]
	secret := func(chain, key string) []byte {
		return fmt.Appendf(nil, "{apiVersion: v1, kind: Secret, metadata: {name: mistake}, type: kubernetes.io/tls, stringData: {tls.crt: %q, tls.key: %q}}\n", chain, key) // Go quotes as YAML does
	}
	gateway := []byte("---\n" + strings.NewReplacer("names", "mistakes", "changing", "mistake").Replace(string(namesObjects(s.g.port, "changing"))))
	damaged := bytes.Replace(key, []byte(block[1]), []byte("MIGHBgEA"+block[1][8:]), 1)
	out := map[string][]byte{
		"a key that is damaged":          secret(string(chain), string(damaged)),
		"a key that is cut off":          secret(string(chain), string(key[:len(key)/2])),
		"a key with another label":       secret(string(chain), strings.ReplaceAll(string(key), "PRIVATE KEY", "SECRET")),
		"swapped":                        secret(string(key), string(chain)),
		"base64 twice":                   secret(string(chain), base64.StdEncoding.EncodeToString(key)),
		"no PEM":                         secret(string(chain), body),
		"of another certificate":         secret(string(other.chain), string(key)),
		"PEM where base64 belongs":       fmt.Appendf(nil, "{apiVersion: v1, kind: Secret, metadata: {name: mistake}, data: {tls.crt: \"\", tls.key: %q}}\n", key),
		"a field that is not there":      fmt.Appendf(nil, "{apiVersion: v1, kind: Secret, metadata: {name: mistake}, tls.key: %q}\n", key),
		"a list where text belongs":      fmt.Appendf(nil, "{apiVersion: v1, kind: Secret, metadata: {name: mistake}, stringData: {tls.key: [%q]}}\n", body),
		"YAML whose indentation is lost": fmt.Appendf(nil, "apiVersion: v1\nkind: Secret\nmetadata: {name: mistake}\nstringData:\n  tls.key: |\n%s", key),
		"YAML whose quote is lost":       fmt.Appendf(nil, "apiVersion: v1\nkind: Secret\nmetadata: {name: mistake}\nstringData:\n  tls.key: \"%s\n", key),
		"a key alone":                    key,
	}
	for name := range out {
		if name != "a key alone" {
			out[name] = append(out[name], gateway...)
		}
	}
	return out
}

// inMemory are the forms that a copy in memory has.
var inMemory = []string{"raw", "limbs", "PEM", "base64 of PEM"}

// memory counts copies of the key in the memory of the gateway.
func (s *scan) memory() (n int, forms []string) {
	s.Helper()
	process := fmt.Sprintf("/proc/%d/", s.g.cmd.Process.Pid)
	mem, err := os.Open(process + "mem")
	if err != nil {
		s.Fatal(err)
	}
	defer mem.Close()
	seen := map[string]int{} // each part, which a copy has once
	for line := range strings.Lines(string(s.read(process + "maps"))) {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		const step = 1 << 20
		buf := make([]byte, step+64) // a copy may lie across two steps
		for at := from; at < to; at += step {
			got, _ := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at) // less where it is gone again
			for _, form := range inMemory {
				for _, part := range s.needles[form] {
					seen[string(part)] += bytes.Count(buf[:got], part)
				}
			}
		}
	}
	for _, form := range inMemory {
		most := 0
		for _, part := range s.needles[form] {
			most = max(most, seen[string(part)])
		}
		if n += most; most > 0 {
			forms = append(forms, fmt.Sprintf("%d %s", most, form))
		}
	}
	return n, forms
}
