package tree

import "fmt"

// Namespace is that of a Kubernetes object.
func Namespace(object Node) string {
	if n := object.Get("metadata", "namespace").Text(); n != "" {
		return n
	}
	return "default"
}

// ObjectName is what a Kubernetes object is called in messages: kind, namespace and name.
func ObjectName(object Node) string {
	return fmt.Sprintf("%s %s/%s", object.Get("kind").Text(), Namespace(object), object.Get("metadata", "name").Text())
}
