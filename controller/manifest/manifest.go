// SPDX-License-Identifier: Apache-2.0

// Package manifest reads the YAML and JSON that kubectl apply takes, where no
// API server does: it finds unknown fields, applies the defaults and checks the
// rules of the Gateway API's schemas.
//
// Kinds that have no part in what Sluice serves (Deployment, ServiceAccount, …)
// are passed over, so the files of a cluster work as they are.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	utiljson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// Error is what is wrong with one document, or with one object in it.
type Error struct {
	// File is the name that was given to Decode, Line the first line of the
	// document, counted from 1.
	File string
	Line int
	// Object is the zero Key where it is not even known.
	Object translate.Key
	// Cause says what is wrong and how to mend it.
	Cause string
	// Duplicate tells that the object is good, but is defined before already.
	Duplicate bool
}

// Error returns "file:line: Kind namespace/name: cause".
func (e *Error) Error() string {
	if e.Object == (translate.Key{}) {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Cause)
	}
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Object, e.Cause)
}

// Duplicates returns the objects that an error of [Decode] says are defined
// more than once.
func Duplicates(err error) map[translate.Key]bool {
	out := map[translate.Key]bool{}
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range all.Unwrap() {
			if e, ok := errors.AsType[*Error](err); ok && e.Duplicate {
				out[e.Object] = true
			}
		}
	}
	return out
}

// Decode reads a stream of documents; name is that of the file, for messages.
//
// It returns everything that is good. The error joins an [*Error] for each
// thing that is not: a field that does not exist, a rule of the schema that is
// broken, an object that is defined twice. Objects without a namespace are in
// namespace "default". What only an API server may set (status, timestamps) is
// taken out.
func Decode(name string, data []byte) (translate.Resources, error) {
	d := decoder{file: name, out: translate.Resources{Sources: map[translate.Key]string{}, Unread: map[translate.Key]string{}}}
	documents, err := split(data)
	if err != nil {
		d.fail(translate.Key{}, len(bytes.Split(data, []byte("\n"))), err.Error())
	}
	for _, doc := range documents {
		d.document(doc)
	}
	return d.out, errors.Join(d.problems...)
}

type decoder struct {
	file     string
	out      translate.Resources
	problems []error
}

func (d *decoder) fail(object translate.Key, line int, cause string) {
	d.problems = append(d.problems, &Error{File: d.file, Line: line, Object: object, Cause: cause})
	if d.out.Unread[object] == "" {
		d.out.Unread[object] = fmt.Sprintf("%s:%d", d.file, line)
	}
}

func (d *decoder) document(doc document) {
	raw, err := yaml.YAMLToJSONStrict(doc.text)
	if err != nil {
		line, cause := yamlCause(err, doc)
		d.fail(translate.Key{}, line, "not YAML: "+cause)
		return
	}
	if raw = bytes.TrimSpace(raw); string(raw) == "null" {
		return // only comments
	}
	d.object(raw, doc.line, "")
}

var yamlLine = regexp.MustCompile(`line [0-9]+`)

// yamlCause returns the line of a mistake and what it is, counts lines from the top of
// the file, and strips what the message around it says already. Of the YAML it quotes at
// most the name of a key.
func yamlCause(err error, doc document) (int, string) {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	switch {
	case bytes.Contains(doc.text, []byte("{{")):
		text, _, _ = strings.Cut(text, ": map[") // a dump of Go's
		text += "; if {{ }} is of a template, fill it in first, with helm template or the like"
	case (strings.Contains(text, "cannot start any token") || strings.Contains(text, "tab character")) && bytes.Contains(doc.text, []byte("\t")):
		text += "; indent with spaces, not with tabs"
	}
	at := 0
	text = yamlLine.ReplaceAllStringFunc(text, func(line string) string {
		n, err := strconv.Atoi(strings.TrimPrefix(line, "line "))
		if err != nil {
			return line
		}
		n += doc.line - 1
		if at == 0 {
			at = n
		}
		return fmt.Sprintf("line %d", n)
	})
	if at == 0 {
		return doc.line, text
	}
	return at, strings.TrimPrefix(text, fmt.Sprintf("line %d: ", at))
}

// object reads one object; where says which of a List it is.
func (d *decoder) object(raw []byte, line int, where string) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
		Items []json.RawMessage `json:"items"`
	}
	if err := utiljson.UnmarshalCaseSensitivePreserveInts(raw, &head); err != nil {
		d.fail(translate.Key{}, line, where+"not an object of Kubernetes: "+jsonCause(err))
		return
	}
	if head.APIVersion == "" || head.Kind == "" {
		d.fail(translate.Key{}, line, where+"apiVersion and kind are required")
		return
	}
	if head.Kind == "List" && head.APIVersion == "v1" {
		for i, item := range head.Items {
			d.object(item, line, fmt.Sprintf("%sitems[%d]: ", where, i))
		}
		return
	}
	group, version, ok := strings.Cut(head.APIVersion, "/")
	if !ok {
		group, version = "", head.APIVersion
	}
	key := translate.Key{Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name}
	k, known := kinds[groupKind{group, head.Kind}]
	switch {
	case known && k.namespaced && key.Namespace == "":
		key.Namespace = "default"
	case known && !k.namespaced:
		key.Namespace = ""
	case !known:
		if cause := unknown(group, head.Kind); cause != "" {
			if key.Name == "" {
				key = translate.Key{} // cut off, more likely than not
			}
			d.fail(key, line, where+cause)
		}
		return
	}
	if !k.has(version) {
		d.fail(key, line, fmt.Sprintf("%sapiVersion %s is not supported; write %s", where, head.APIVersion, k.apiVersion(group)))
		return
	}
	if source := d.out.Sources[key]; source != "" {
		d.problems = append(d.problems, &Error{File: d.file, Line: line, Object: key, Duplicate: true,
			Cause: fmt.Sprintf("%sis already defined at %s; delete one of the two", where, source)})
		return
	}
	problems := k.read(raw, key.Namespace, &d.out)
	for _, p := range problems {
		d.fail(key, line, where+p)
	}
	if len(problems) == 0 {
		d.out.Sources[key] = fmt.Sprintf("%s:%d", d.file, line)
	}
}

// strict decodes JSON and reports every field that does not exist.
func strict(raw []byte, into any) []string {
	fields, err := utiljson.UnmarshalStrict(raw, into)
	var problems []string
	if err != nil {
		problems = append(problems, jsonCause(err))
	}
	for _, f := range fields {
		problems = append(problems, f.Error())
	}
	return problems
}

func jsonCause(err error) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		text := fmt.Sprintf("%s given where %s is wanted", valueText(e.Value), typeText(e.Type))
		if e.Field != "" {
			text = strings.ReplaceAll(e.Field, "CommonRouteSpec.", "") + ": " + text
		}
		return text
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if strings.Contains(text, "base64") {
		text += "; data holds base64, put plain text into stringData"
	}
	return text
}

// valueText leaves out numbers, which UnmarshalTypeError quotes.
func valueText(v string) string {
	kind, _, _ := strings.Cut(v, " ")
	return kind
}

// typeText is the JSON name of a Go type.
func typeText(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice, reflect.Array:
		return "list"
	case reflect.Struct, reflect.Map, reflect.Pointer:
		return "object"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "whole number"
	}
	return t.String()
}

// document is one document of a stream, with the number of its first line.
type document struct {
	line int
	text []byte
}

// split finds the documents of a stream of YAML, or of JSON values one after
// the other.
func split(data []byte) ([]document, error) {
	if bytes.HasPrefix(data, []byte("\xFF\xFE")) || bytes.HasPrefix(data, []byte("\xFE\xFF")) {
		return nil, errors.New("the file is UTF-16; save it as UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF"))
	// YAML takes a bare CR for a line end too (YAML 1.2, 5.4).
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	data = bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		if docs, ok := splitJSON(data); ok {
			return docs, nil
		}
	}
	var docs []document
	current := document{line: 1}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		bare := strings.TrimRight(string(line), "\r\n")
		if bare == "..." || bare == "---" || strings.HasPrefix(bare, "--- ") || strings.HasPrefix(bare, "---\t") {
			docs = append(docs, current)
			rest := ""
			if bare != "..." {
				rest = "   " + bare[len("---"):] + "\n"
			}
			current = document{line: number, text: []byte(rest)}
			continue
		}
		current.text = append(current.text, line...)
	}
	docs = append(docs, current)
	out := docs[:0]
	for _, d := range docs {
		if d.trim(); len(d.text) > 0 {
			out = append(out, d)
		}
	}
	return out, nil
}

// trim drops empty lines and comments before the first line that counts.
func (d *document) trim() {
	for len(d.text) > 0 {
		line, rest, _ := bytes.Cut(d.text, []byte("\n"))
		if bare := bytes.TrimSpace(line); len(bare) > 0 && bare[0] != '#' {
			return
		}
		d.text = rest
		d.line++
	}
}

func splitJSON(data []byte) ([]document, bool) {
	var docs []document
	in := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		switch err := in.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return docs, true
		case err != nil:
			return nil, false
		}
		start := int(in.InputOffset()) - len(raw)
		docs = append(docs, document{line: 1 + bytes.Count(data[:start], []byte("\n")), text: raw})
	}
}
