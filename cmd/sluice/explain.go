// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/terminator"
)

// explain says what became of a route, or would of a connection.
func explain(e *env, flags *flag.FlagSet, args []string) error {
	if len(args) > 0 && args[0] == "conn" {
		return explainConn(e, flags, args[1:])
	}
	if len(args) > 0 && args[0] == "route" {
		return explainRoute(e, flags, args[1:])
	}
	if err := parse(flags, args, "WHAT"); err != nil {
		return err
	}
	return usageError(fmt.Sprintf("%q is not one of [\"route\" \"conn\"]: sluice explain route NAMESPACE/NAME, or sluice explain conn PORT", flags.Arg(0)))
}

// questionFlags are the flags of a question.
type questionFlags struct {
	terminator.Question
	alpn string
}

func (q *questionFlags) register(flags *flag.FlagSet) {
	flags.TextVar(&q.Client, "from", netip.Addr{}, "`address` of the client")
	flags.TextVar(&q.Local, "to", netip.Addr{}, "`address` that it connects to, where the port is on several")
	flags.StringVar(&q.SNI, "sni", "", "server `name` that it asks for; the host of its request with HTTP")
	flags.StringVar(&q.alpn, "alpn", "", "comma-separated `protocols` that it offers")
	flags.StringVar(&q.Method, "method", "GET", "`method` of its request, where HTTP is served")
	flags.StringVar(&q.Path, "path", "/", "`path` of its request, where HTTP is served")
}

func (q *questionFlags) question(port string) (terminator.Question, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return q.Question, usageError(fmt.Sprintf("%q is not a port", port))
	}
	q.Port = uint16(n)
	if q.alpn != "" {
		q.ALPN = strings.Split(q.alpn, ",")
	}
	return q.Question, nil
}

// arguments are a question as it is asked in a command line.
func arguments(q terminator.Question) []string {
	out := []string{"-sni=" + q.SNI, "-alpn=" + strings.Join(q.ALPN, ","), "-method=" + q.Method, "-path=" + q.Path}
	if q.Client.IsValid() {
		out = append(out, "-from="+q.Client.String())
	}
	if q.Local.IsValid() {
		out = append(out, "-to="+q.Local.String())
	}
	return append(out, strconv.Itoa(int(q.Port)))
}

// explainConn asks what a connection would get.
func explainConn(e *env, flags *flag.FlagSet, args []string) error {
	var o origin
	var f questionFlags
	o.register(flags)
	f.register(flags)
	output := flags.String("o", "text", "output `format`: text or json")
	if err := parse(flags, args, "PORT"); err != nil {
		return err
	}
	if err := oneOf("-o", *output, "text", "json"); err != nil {
		return err
	}
	q, err := f.question(flags.Arg(0))
	if err != nil {
		return err
	}
	x, err := o.explain(q)
	if err != nil {
		return err
	}
	if *output == "json" {
		err = printJSON(e.stdout, x)
	} else {
		s := screen{e.stdout, time.Now(), terminalWidth(e.stdout)}
		s.explanation(x)
	}
	if err == nil && (x.Refused != "" || x.Status >= 400) {
		return errWrong
	}
	return err
}

func (o *origin) explain(q terminator.Question) (*terminator.Explanation, error) {
	if len(o.files) == 0 {
		return answer[terminator.Explanation](o.admin, "explain", q)
	}
	snap, err := o.snapshot()
	if err != nil {
		return nil, err
	}
	return terminator.Explain(snap, q)
}

func (s *screen) explanation(x *terminator.Explanation) {
	for i, step := range x.Steps {
		s.line("", "%d. %s", i+1, step)
	}
	if x.Question.Client.IsValid() {
		s.line("", "%d. the address of the client makes no difference", len(x.Steps)+1)
	}
	fmt.Fprintln(s.w)
	row := func(name, value string) {
		if value != "" {
			s.line("", "%-12s %s", name, value)
		}
	}
	row("listener", x.Listener)
	row("certificate", x.Certificate)
	row("route", x.Route)
	for _, b := range x.Backends {
		row("backend", fmt.Sprintf("%s, %.3g%%", cmp.Or(b.Backend, "none"), b.Percent))
		for _, e := range b.Endpoints {
			text := fmt.Sprintf("%s, %s", e.Address, count(int(e.Connections), "open connection"))
			if e.Failed {
				text += ", failed of late"
			}
			row("  endpoint", text)
		}
	}
	if x.Status != 0 {
		row("status", fmt.Sprint(x.Status))
	}
	row("refused", x.Refused)
}

// explainRoute tells what became of the routes with a name.
func explainRoute(e *env, flags *flag.FlagSet, args []string) error {
	var o origin
	o.register(flags)
	output := flags.String("o", "text", "output `format`: text or json")
	if err := parse(flags, args, "NAMESPACE/NAME"); err != nil {
		return err
	}
	if err := oneOf("-o", *output, "text", "json"); err != nil {
		return err
	}
	all, err := o.routes()
	if err != nil {
		return err
	}
	return printRoutes(e, all, flags.Arg(0), *output)
}

// printRoutes prints those of some routes that have a name.
func printRoutes(e *env, all []translate.RouteView, named, output string) (err error) {
	wanted := []translate.RouteView{}
	for _, r := range all {
		name := r.Object.Namespace + "/" + r.Object.Name
		if named == name || strings.EqualFold(named, r.Object.Kind+"/"+name) {
			wanted = append(wanted, r)
		}
	}
	if len(wanted) == 0 {
		return fmt.Errorf("there is no route %s with a Gateway of Sluice among its parentRefs; write NAMESPACE/NAME or KIND/NAMESPACE/NAME", named)
	}
	if output == "json" {
		err = printJSON(e.stdout, wanted)
	} else {
		s := screen{e.stdout, time.Now(), terminalWidth(e.stdout)}
		for i := range wanted {
			s.route(&wanted[i])
		}
	}
	for i := range wanted {
		if err == nil && wanted[i].Wrong() {
			return errWrong
		}
	}
	return err
}

func (o *origin) routes() ([]translate.RouteView, error) {
	if len(o.files) == 0 {
		all, err := answer[[]translate.RouteView](o.admin, "routes")
		if err != nil {
			return nil, err
		}
		return *all, nil
	}
	t, err := o.translation()
	if err != nil {
		return nil, err
	}
	return t.Routes(), nil
}

func (s *screen) route(r *translate.RouteView) {
	at := ""
	if r.Source != "" {
		at = " (" + r.Source + ")"
	}
	s.line("", "%s%s", r.Object, at)
	for _, p := range r.Parents {
		s.line("  ", "parent %s", p.Object)
		if p.Refused != "" {
			s.line("  ", "refused: %s", p.Refused)
		}
		for _, l := range p.Listeners {
			s.routeListener(&l)
		}
	}
	for _, b := range r.Backends {
		s.line("  ", "backend %s", b)
	}
	for _, p := range r.Problems {
		s.line("  ", "problem: %s", p)
	}
	for _, w := range r.Warnings {
		s.line("  ", "warning: %s", w)
	}
	for _, g := range r.Grants {
		s.line("  ", "this ReferenceGrant allows it:")
		s.block(g)
	}
}

func (s *screen) routeListener(l *translate.ListenerView) {
	head := fmt.Sprintf("listener %q, port %d/%s, hostname %s", l.Name, l.Port, l.Protocol, cmp.Or(l.Hostname, "*"))
	if !l.Attached {
		why := l.Why
		if l.Cure != "" {
			why += "; " + l.Cure
		}
		s.line("    ", "%s: not attached: it %s", head, why)
		return
	}
	var names []string
	for _, h := range l.Hostnames {
		names = append(names, cmp.Or(h, "every connection"))
	}
	s.line("    ", "%s: attached for %s", head, strings.Join(names, ", "))
	for _, o := range l.Superseded {
		s.line("      ", "superseded: %s has %s and comes first; delete one of the two, or give them different hostnames", o.By, cmp.Or(o.What, "every connection"))
	}
	if l.Why != "" {
		s.line("      ", "%s", l.Why)
	}
	if l.Extension {
		s.line("      ", "not portable: other gateways take no TCPRoute here")
	}
	if l.NotServed != "" {
		s.line("      ", "not served: %s", l.NotServed)
	}
}
