package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"gatehouse/routes"
	"gatehouse/yamltext"

	"go.yaml.in/yaml/v3"
)

// ReadOpenAPI reads a description from a file or an http(s) URL. client may be nil. The size is limited to 8 MiB.
func ReadOpenAPI(ctx context.Context, client *http.Client, fileOrURL string) ([]byte, error) {
	if !strings.HasPrefix(fileOrURL, "http://") && !strings.HasPrefix(fileOrURL, "https://") {
		f, err := os.Open(fileOrURL)
		if err != nil {
			return nil, fmt.Errorf("reading OpenAPI file: %w", err)
		}
		defer f.Close()
		return readBounded(f, fileOrURL)
	}
	if client == nil {
		client = http.DefaultClient
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fileOrURL, nil)
	if err != nil {
		return nil, fmt.Errorf("reading OpenAPI from %q: %w", fileOrURL, err)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reading OpenAPI: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading OpenAPI from %q: status %s", fileOrURL, response.Status)
	}
	return readBounded(response.Body, fileOrURL)
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, routes.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	if len(data) > routes.MaxBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, routes.MaxBytes)
	}
	return data, nil
}

// OpenAPI makes a table from the paths of an OpenAPI 3 or Swagger 2 description, in JSON or YAML; name is for
// messages. It reads only paths, operations and the servers' path, so errors elsewhere do not matter. References
// inside the file are followed; others are reported.
func OpenAPI(name string, data []byte) (*routes.Table, []routes.Notice, error) {
	if len(data) > routes.MaxBytes {
		return nil, nil, fmt.Errorf("%s: larger than %d bytes", name, routes.MaxBytes)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, nil, yamltext.Error(name, err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, nil, fmt.Errorf("%s:1: not an OpenAPI description: expected keys and values", name)
	}
	im := openapiImport{file: name, root: doc.Content[0], table: routes.Imported{Framework: routes.OpenAPI, Source: "openapi " + name}}
	if child(im.root, "openapi") == nil && child(im.root, "swagger") == nil {
		return nil, nil, fmt.Errorf("%s:1: not an OpenAPI description: neither openapi nor swagger is among its keys", name)
	}
	im.servers()
	paths := child(im.root, "paths")
	if paths == nil || paths.Kind != yaml.MappingNode {
		return nil, nil, fmt.Errorf("%s:1: paths: is missing or not a mapping", name)
	}
	for i := 0; i+1 < len(paths.Content); i += 2 {
		if key := paths.Content[i]; !strings.HasPrefix(key.Value, "x-") {
			im.path(key, paths.Content[i+1])
		}
	}
	if len(im.errs) > 0 {
		return nil, nil, errors.Join(im.errs...)
	}
	table, notices, err := routes.Import(name, im.table)
	return table, append(im.notices, notices...), err
}

type openapiImport struct {
	file    string
	root    *yaml.Node
	table   routes.Imported
	errs    []error
	notices []routes.Notice
}

const maxErrors = 50

func (im *openapiImport) fail(n *yaml.Node, format string, args ...any) {
	if len(im.errs) < maxErrors {
		im.errs = append(im.errs, fmt.Errorf("%s:%d: %w", im.file, n.Line, fmt.Errorf(format, args...)))
	}
}

func (im *openapiImport) text(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Tag == "!!binary" {
		im.fail(n, "expected text")
		return ""
	}
	return n.Value
}

func (im *openapiImport) texts(n *yaml.Node) (all []string) {
	if n.Kind != yaml.SequenceNode {
		im.fail(n, "expected a list")
		return nil
	}
	for _, item := range n.Content {
		all = append(all, im.text(item))
	}
	return all
}

func (im *openapiImport) note(n *yaml.Node, format string, args ...any) {
	im.notices = append(im.notices, routes.Notice{File: im.file, Line: n.Line, Text: fmt.Sprintf(format, args...)})
}

// child returns the value of a key, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// servers reads the path prefix of every template: basePath, or that of the first server.
func (im *openapiImport) servers() {
	if base := child(im.root, "basePath"); base != nil {
		if im.table.RootPath = strings.TrimRight(im.text(base), "/"); im.table.RootPath != "" && im.table.RootPath[0] != '/' {
			im.fail(base, "%q does not start with a slash", im.table.RootPath)
		}
		return
	}
	list := child(im.root, "servers")
	if list == nil || list.Kind != yaml.SequenceNode {
		return
	}
	for i, server := range list.Content {
		address := child(server, "url")
		if address == nil {
			continue
		}
		u, err := url.Parse(address.Value)
		switch {
		case strings.Contains(address.Value, "{"):
			im.note(address, "server %q has variables: say its path in root_path", address.Value)
		case err != nil:
			im.fail(address, "server %q: %w", address.Value, err)
		case i == 0:
			if im.table.RootPath = strings.TrimRight(u.Path, "/"); im.table.RootPath != "" && im.table.RootPath[0] != '/' {
				im.table.RootPath = "/" + im.table.RootPath
			}
		case strings.TrimRight(u.Path, "/") != im.table.RootPath:
			im.note(address, "server %q has another path than the first; the first is root_path", address.Value)
		}
	}
}

var openapiMethods = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace", "query"}

// path adds the operations of one path item as one route each, because each may have a name and tags.
func (im *openapiImport) path(key, item *yaml.Node) {
	if !strings.HasPrefix(key.Value, "/") {
		im.fail(key, "path %q does not start with a slash", key.Value)
		return
	}
	if ref := child(item, "$ref"); ref != nil {
		target := im.resolve(ref)
		if target == nil {
			im.note(ref, "path %q is described elsewhere (%s): its requests are refused until it is put in", key.Value, ref.Value)
			im.add(routes.ImportedRoute{Template: key.Value, Unsupported: "described in " + ref.Value})
			return
		}
		item = target
	}
	if item.Kind != yaml.MappingNode {
		im.fail(item, "path %q: expected operations", key.Value)
		return
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		method, operation := item.Content[i].Value, item.Content[i+1]
		if !slices.Contains(openapiMethods, method) {
			continue
		}
		route := routes.ImportedRoute{Methods: []string{strings.ToUpper(method)}, Template: key.Value}
		if id := child(operation, "operationId"); id != nil {
			route.Name = id.Value
		}
		if tags := child(operation, "tags"); tags != nil {
			route.Tags = im.texts(tags)
		}
		im.add(route)
	}
}

func (im *openapiImport) add(r routes.ImportedRoute) {
	if len(im.table.Routes) < routes.MaxRoutes {
		im.table.Routes = append(im.table.Routes, r)
	} else if len(im.errs) == 0 {
		im.fail(im.root, "more than %d operations", routes.MaxRoutes)
	}
}

// maxReferences bounds the references followed for one path.
const maxReferences = 8

// resolve follows a reference inside the file ("#/components/pathItems/x"), a few steps at most.
func (im *openapiImport) resolve(ref *yaml.Node) *yaml.Node {
	for range maxReferences {
		pointer, ok := strings.CutPrefix(ref.Value, "#/")
		if !ok {
			return nil
		}
		n := im.root
		for _, part := range strings.Split(pointer, "/") {
			if decoded, err := url.PathUnescape(part); err == nil {
				part = decoded
			}
			if n = child(n, strings.NewReplacer("~1", "/", "~0", "~").Replace(part)); n == nil {
				return nil
			}
		}
		if ref = child(n, "$ref"); ref == nil {
			return n
		}
	}
	return nil
}
