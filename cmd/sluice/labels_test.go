// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// declared is a function, or a group of constants that one of its names stands
// for.
type declared struct{ file, name string }

// Where the values of labels come from that alerts or the dashboard select by.
var labelValues = map[string][]declared{
	"sluice_backend_endpoints state":               {{"terminator/metrics.go", "Collect"}},
	"sluice_connect_failures_total cause":          {{"terminator/connect.go", "causeLocal"}},
	"sluice_connections_total result":              {{"terminator/connection.go", "endIdle"}, {"terminator/relay/doc.go", "Done"}},
	"sluice_controller_status_writes_total result": {{"controller/status.go", "put"}},
	"sluice_endpoint_choices_total result":         {{"terminator/metrics.go", "choice"}, {"terminator/connect.go", "causeLocal"}},
	"sluice_handshakes_total result":               {{"terminator/metrics.go", "handshake"}},
	"sluice_snapshots_total result":                {{"agent/agent.go", "Apply"}},
	"sluice_splice_state reason":                   {{"agent/splice/unavailable.go", "ReasonOff"}},
}

// strings returns the strings in a declaration.
func (d declared) strings(t *testing.T) (out []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../"+d.file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		named := false
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			named = decl.Name.Name == d.name
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				if v, ok := spec.(*ast.ValueSpec); ok {
					named = named || slices.ContainsFunc(v.Names, func(n *ast.Ident) bool { return n.Name == d.name })
				}
			}
		}
		if !named {
			continue
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if s, err := strconv.Unquote(l.Value); err == nil {
					out = append(out, s)
				}
			}
			return true
		})
	}
	if len(out) == 0 {
		t.Fatalf("%s has no strings in %s", d.file, d.name)
	}
	return out
}

// query is an expression, with the labels that what is said of its result has.
type query struct {
	of, expr string
	says     [][]string
}

// queries are those of alerts and dashboard.
func queries(t *testing.T) (out []query) {
	t.Helper()
	rules, err := os.ReadFile(observe + "alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range strings.Split(string(rules), "- alert: ")[1:] {
		name, _, _ := strings.Cut(rule, "\n")
		out = append(out, query{name, string(expressions([]byte(rule))), regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(rule, -1)})
	}
	_, panels := dashboard(t)
	for _, p := range panels {
		for _, target := range p.Targets {
			out = append(out, query{p.Title, target.Expr, regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1)})
		}
	}
	return out
}

// Alerts and dashboard speak of labels that metrics have, by README.md's table, and
// select by values that the code gives them: who renames one finds them here.
func TestAlertsAndDashboardSelectByWhatThereIs(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(sluice_\\w+)` \\| ([^|]*) \\|").FindAllStringSubmatch(string(readme), -1) {
		labels[row[1]] = strings.Split(row[2], ", ")
	}
	metric := regexp.MustCompile(`\b(sluice_\w+?)(?:_bucket)?\b(?:{([^}]*)})?`)
	matcher := regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"([^"]*)"`)
	checked := 0
	for _, q := range queries(t) {
		known := []string{"instance", "job", "le"}
		for _, m := range metric.FindAllStringSubmatch(q.expr, -1) {
			if labels[m[1]] == nil {
				t.Errorf("%s: README.md has no %s", q.of, m[1])
			}
			known = append(known, labels[m[1]]...)
			for _, s := range matcher.FindAllStringSubmatch(m[2], -1) {
				if s[1] == "instance" {
					continue
				}
				if !slices.Contains(labels[m[1]], s[1]) {
					t.Errorf("%s: %s has no label %s", q.of, m[1], s[1])
				}
				var values []string
				for _, d := range labelValues[m[1]+" "+s[1]] {
					values = append(values, d.strings(t)...)
				}
				for _, v := range strings.Split(s[2], "|") {
					checked++
					if !slices.Contains(values, v) {
						t.Errorf("%s: %s of %s is never %q", q.of, s[1], m[1], v)
					}
				}
			}
		}
		says := q.says
		for _, list := range regexp.MustCompile(`\b(?:by|on|group_left) \(([^)]*)\)`).FindAllStringSubmatch(q.expr, -1) {
			for _, l := range strings.Split(list[1], ", ") {
				says = append(says, []string{"", l})
			}
		}
		for _, l := range says {
			checked++
			if !slices.Contains(known, l[1]) {
				t.Errorf("%s: no metric of it has the label %s", q.of, l[1])
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d labels and values were found", checked)
	}
}
