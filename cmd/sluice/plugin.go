// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/controller"
	"github.com/sluice-gateway/sluice/terminator"
)

// pluginCommands are those that ask all nodes of a cluster.
var pluginCommands = []command{
	{"status", "", "show nodes, listeners, certificates and what is wrong", clusterStatus},
	{"conns", "", "show the open connections of all nodes", clusterConns},
	{"web", "", "show all of that as a page, live", clusterWeb},
	{"certs", "[NAME]", "show which certificate a server name gets", clusterCerts},
	{"explain", "WHAT", "say what a connection would get on each node, or what became of a route", clusterExplain},
}

// nodesFlags are the flags of all of them.
type nodesFlags struct {
	access clusterAccess
	output string
}

func (f *nodesFlags) register(flags *flag.FlagSet) {
	f.access.register(flags)
	flags.StringVar(&f.output, "o", "text", "output `format`: text or json")
}

// show asks the nodes and prints what they say; text does that for answers that
// are there. Nodes that do not answer are named below.
func (f *nodesFlags) show(e *env, args []string, text func(s *screen, answers []nodeAnswer) error) error {
	if err := oneOf("-o", f.output, "text", "json"); err != nil {
		return err
	}
	all, err := f.access.ask(e.ctx, append(args, "-o", "json"))
	if err != nil {
		return err
	}
	good := slices.DeleteFunc(slices.Clone(all), func(a nodeAnswer) bool { return a.Error != "" })
	if f.output == "json" {
		err = printJSON(e.stdout, all)
		if err == nil { // for the exit status
			err = text(&screen{io.Discard, time.Now(), 0}, good)
		}
	} else {
		s := &screen{e.stdout, time.Now(), terminalWidth(e.stdout)}
		err = text(s, good)
		var missing []string
		for _, a := range all {
			if a.Error != "" {
				missing = append(missing, a.Node+": "+a.Error)
			}
		}
		s.list("NODES THAT DO NOT ANSWER", missing)
	}
	if err == nil && len(good) < len(all) {
		return errWrong
	}
	return err
}

// each decodes what nodes say.
func each[T any](answers []nodeAnswer, f func(node string, v *T)) error {
	for _, a := range answers {
		v := new(T)
		if err := json.Unmarshal(a.Answer, v); err != nil {
			return fmt.Errorf("node %s: read its answer: %w", a.Node, err)
		}
		f(a.Node, v)
	}
	return nil
}

func clusterStatus(e *env, flags *flag.FlagSet, args []string) error {
	var f nodesFlags
	f.register(flags)
	if err := parse(flags, args); err != nil {
		return err
	}
	return f.show(e, []string{"status"}, func(s *screen, answers []nodeAnswer) error {
		nodes := s.table("NODE", "VERSION", "STATE", "LISTENERS", "OPEN", "SPLICE", "PROBLEMS")
		listeners, names := map[string]*nodesListener{}, []string{}
		certificates := map[string]agent.CertificateStatus{}
		var problems []string
		err := each(answers, func(node string, v *statusView) {
			open := 0
			for _, l := range v.Listeners {
				open += l.Connections
				if listeners[l.Name] == nil {
					listeners[l.Name] = &nodesListener{ListenerStatus: l}
					listeners[l.Name].Connections = 0
					names = append(names, l.Name)
				}
				listeners[l.Name].add(node, l)
			}
			for _, c := range v.Certificates {
				certificates[c.Name] = c
			}
			for _, p := range v.Resources.Problems {
				problems = append(problems, node+": "+p)
			}
			splice := "on"
			if !v.Splice.On {
				splice = "off (" + v.Splice.Reason + ")"
			}
			nodes.row(node, v.Version, v.state(), fmt.Sprint(len(v.Listeners)), fmt.Sprint(open), splice, fmt.Sprint(len(v.Resources.Problems)))
		})
		nodes.print()
		slices.Sort(names)
		t := s.table("LISTENER", "PORT", "HOSTNAME", "OPEN", "STATE")
		for _, n := range names {
			l := listeners[n]
			spec := listenerSpec{Port: int32(l.Port), Protocol: string(l.Protocol), Hostname: l.Hostname}
			t.row(n, spec.port(), spec.hostname(), fmt.Sprint(l.Connections), fmt.Sprintf("served by %d of %s", l.served, count(len(answers), "node")))
			problems = append(problems, l.problems...)
		}
		t.print()
		t = s.table("CERTIFICATE", "KEY", "NAMES", "EXPIRES")
		for _, n := range slices.Sorted(maps.Keys(certificates)) {
			c := certificates[n]
			t.row(c.Name, c.KeyType, cmp.Or(shorten(c.DNSNames), c.Subject), expiry(c.NotAfter, s.now))
		}
		t.print()
		s.list("PROBLEMS", problems)
		if err == nil && len(problems) > 0 {
			return errWrong
		}
		return err
	})
}

// nodesListener is a listener as several nodes serve it.
type nodesListener struct {
	agent.ListenerStatus
	served   int
	problems []string
}

func (l *nodesListener) add(node string, o agent.ListenerStatus) {
	l.Connections += o.Connections
	if o.Problem == "" {
		l.served++
	} else {
		l.problems = append(l.problems, fmt.Sprintf("%s: listener %s: %s", node, o.Name, o.Problem))
	}
}

func clusterConns(e *env, flags *flag.FlagSet, args []string) error {
	var f nodesFlags
	f.register(flags)
	if err := parse(flags, args); err != nil {
		return err
	}
	return f.show(e, []string{"conns"}, func(s *screen, answers []nodeAnswer) error {
		for _, a := range answers {
			s.line("", "node %s", a.Node)
			if err := printConnections(s.w, a.Answer, s.now); err != nil {
				return err
			}
		}
		return nil
	})
}

func clusterCerts(e *env, flags *flag.FlagSet, args []string) error {
	var f nodesFlags
	f.register(flags)
	if err := parse(flags, args, "[NAME]"); err != nil {
		return err
	}
	return f.show(e, append([]string{"certs"}, flags.Args()...), func(s *screen, answers []nodeAnswer) error {
		return together(s, answers, func(c *agent.Certificates) { s.certificates(c) })
	})
}

func clusterExplain(e *env, flags *flag.FlagSet, args []string) error {
	if len(args) > 0 && args[0] == "route" {
		return clusterExplainRoute(e, flags, args[1:])
	}
	if len(args) == 0 || args[0] != "conn" {
		if err := parse(flags, args, "WHAT"); err != nil {
			return err
		}
		return usageError(fmt.Sprintf("%q is not one of [\"route\" \"conn\"]: kubectl sluice explain route NAMESPACE/NAME, or kubectl sluice explain conn PORT", flags.Arg(0)))
	}
	var f nodesFlags
	f.register(flags)
	var q questionFlags
	q.register(flags)
	if err := parse(flags, args[1:], "PORT"); err != nil {
		return err
	}
	question, err := q.question(flags.Arg(0))
	if err != nil {
		return err
	}
	refused := false
	err = f.show(e, append([]string{"explain", "conn"}, arguments(question)...), func(s *screen, answers []nodeAnswer) error {
		return together(s, answers, func(x *terminator.Explanation) {
			s.explanation(x)
			refused = refused || x.Refused != "" || x.Status >= 400
		})
	})
	if err == nil && refused {
		return errWrong
	}
	return err
}

// clusterExplainRoute tells what became of the routes with a name, from the
// objects that the user may read: no agent is asked.
func clusterExplainRoute(e *env, flags *flag.FlagSet, args []string) error {
	var access clusterAccess
	access.register(flags)
	output := flags.String("o", "text", "output `format`: text or json")
	if err := parse(flags, args, "NAMESPACE/NAME"); err != nil {
		return err
	}
	if err := oneOf("-o", *output, "text", "json"); err != nil {
		return err
	}
	config, err := access.config()
	if err != nil {
		return err
	}
	t, err := controller.Look(e.ctx, config, access.namespace)
	if err != nil {
		return err
	}
	return printRoutes(e, t.Routes(), flags.Arg(0), *output)
}

// together prints equal answers once, with all nodes that give them.
func together[T any](s *screen, answers []nodeAnswer, show func(*T)) error {
	for len(answers) > 0 {
		first := answers[0]
		var nodes []string
		answers = slices.DeleteFunc(slices.Clone(answers), func(a nodeAnswer) bool {
			same := string(a.Answer) == string(first.Answer)
			if same {
				nodes = append(nodes, a.Node)
			}
			return same
		})
		s.line("", "%s %s", strings.TrimPrefix(count(len(nodes), "node"), fmt.Sprint(len(nodes), " ")), strings.Join(nodes, ", "))
		if err := each([]nodeAnswer{first}, func(_ string, v *T) { show(v) }); err != nil {
			return err
		}
	}
	return nil
}
