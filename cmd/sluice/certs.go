// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/folder"
	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/terminator"
)

// origin is where a command gets its answers: a live gateway, or files.
type origin struct {
	admin string
	files paths
}

func (o *origin) register(flags *flag.FlagSet) {
	flags.StringVar(&o.admin, "admin", defaultAdmin(), "`path` of the admin socket")
	flags.Var(&o.files, "f", "`path` of a file or folder to ask instead of a gateway, - for standard input; may be repeated")
}

// translation is what the files ask for. What cannot be read is an error: an
// answer without it might be wrong.
func (o *origin) translation() (*translate.Translation, error) {
	read, err := folder.Read(o.files, os.Stdin)
	if err != nil {
		return nil, err
	}
	return translate.Translate(read.Resources, translate.Options{ControllerName: controllerName, DefaultClass: className, Now: time.Now()}), nil
}

// snapshot is what a node that is given the files would serve.
func (o *origin) snapshot() (*config.Snapshot, error) {
	t, err := o.translation()
	if err != nil {
		return nil, err
	}
	return t.Snapshot, nil
}

// answer is the answer of a live gateway.
func answer[T any](admin, what string, question ...any) (*T, error) {
	raw, err := ask(admin, what, question...)
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return out, nil
}

// certs shows which certificate each server name gets, or one.
func certs(e *env, flags *flag.FlagSet, args []string) error {
	var o origin
	o.register(flags)
	output := flags.String("o", "text", "output `format`: text or json")
	name := ""
	if err := parse(flags, args, "[NAME]"); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		name = flags.Arg(0)
	}
	if err := oneOf("-o", *output, "text", "json"); err != nil {
		return err
	}
	c, err := o.certificates(name)
	if err != nil {
		return err
	}
	if *output == "json" {
		err = printJSON(e.stdout, c)
	} else {
		s := screen{e.stdout, time.Now(), terminalWidth(e.stdout)}
		s.certificates(c)
	}
	if err == nil && name != "" && len(c.Names) == 0 {
		return fmt.Errorf("no listener that terminates TLS takes server name %q", name)
	}
	return err
}

func (o *origin) certificates(name string) (*agent.Certificates, error) {
	if len(o.files) == 0 {
		return answer[agent.Certificates](o.admin, "certificates?name="+url.QueryEscape(name))
	}
	snap, err := o.snapshot()
	if err != nil {
		return nil, err
	}
	return &agent.Certificates{Names: terminator.Certificates(snap, name), Certificates: agent.Describe(snap)}, nil
}

// certificates prints names with what they get, then the certificates.
func (s *screen) certificates(c *agent.Certificates) {
	t := s.table("SNI", "PORT", "LISTENER", "SECRET", "RSA CLIENTS GET")
	for _, n := range c.Names {
		t.row(cmp.Or(n.SNI, "(any other)"), fmt.Sprint(n.Port), n.Listener, dash(n.Certificate), dash(n.Legacy))
	}
	t.print()
	t = s.table("SECRET", "KEY", "CHAIN", "ISSUER", "EXPIRES")
	for _, of := range c.Certificates {
		t.row(of.Name, of.KeyType, fmt.Sprint(1+len(of.Chain)), cmp.Or(of.Issuer, "-"), expiry(of.NotAfter, s.now))
	}
	t.print()
}
