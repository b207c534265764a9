// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"go.yaml.in/yaml/v3"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// Named is a step of a path, in [Line], to the element of a list that has the
// name.
type Named string

// Value is a step of a path, in [Line], to the first scalar with this value,
// at any depth.
type Value string

// Line returns the line of a field of an object in a file. document is the line
// that Resources.Sources has for the object. The path is made of keys (string),
// indexes (int), [Named] and [Value]; where it leads further than the file, its
// last line that is there counts.
func Line(file []byte, document int, object translate.Key, path ...any) int {
	documents, err := split(file)
	if err != nil {
		return document
	}
	for _, d := range documents {
		var root yaml.Node
		if d.line != document || yaml.Unmarshal(d.text, &root) != nil || len(root.Content) == 0 {
			continue
		}
		n := root.Content[0]
		if item := itemOf(n, object); item != nil {
			n = item
		}
		line := n.Line
		for _, step := range path {
			next, at := follow(n, step)
			if next == nil {
				break
			}
			n, line = next, at
		}
		return document - 1 + line
	}
	return document
}

// itemOf finds an object in a List, nil where n is none.
func itemOf(n *yaml.Node, object translate.Key) *yaml.Node {
	items, _ := follow(n, "items")
	if items == nil || scalar(n, "kind") != "List" {
		return nil
	}
	for _, item := range items.Content {
		meta, _ := follow(item, "metadata")
		namespace := scalar(meta, "namespace")
		if scalar(item, "kind") == object.Kind && scalar(meta, "name") == object.Name &&
			(namespace == object.Namespace || namespace == "" && object.Namespace == "default") {
			return item
		}
	}
	return nil
}

func scalar(n *yaml.Node, key string) string {
	if v, _ := follow(n, key); v != nil {
		return v.Value
	}
	return ""
}

// follow returns where one step leads and the line of it, nil for nowhere.
func follow(n *yaml.Node, step any) (*yaml.Node, int) {
	if n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil {
		return nil, 0
	}
	switch step := step.(type) {
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1], n.Content[i].Line
			}
		}
	case int:
		if n.Kind == yaml.SequenceNode && step < len(n.Content) {
			return n.Content[step], n.Content[step].Line
		}
	case Named:
		for _, e := range n.Content {
			if n.Kind == yaml.SequenceNode && scalar(e, "name") == string(step) {
				return e, e.Line
			}
		}
	case Value:
		if n.Kind == yaml.ScalarNode && n.Value == string(step) {
			return n, n.Line
		}
		for _, e := range n.Content {
			if found, line := follow(e, step); found != nil {
				return found, line
			}
		}
	}
	return nil, 0
}
