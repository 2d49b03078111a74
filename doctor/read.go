package doctor

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gatehouse/config"
	"gatehouse/doctor/cluster"
	"gatehouse/doctor/rules"
	"gatehouse/doctor/tree"
	"gatehouse/upstream"
	"gatehouse/watch"
)

// Bounds of a folder, and of an admin port's answer.
const (
	maxFiles   = 1000
	maxFolders = 20
	answerTime = 30 * time.Second
)

// Cluster is where objects are read from besides files; the zero value is nowhere.
type Cluster struct {
	Kubeconfig string // the file
	Context    string // "": its current one
}

// Read reads files, folders with all of their YAML and JSON, running Envoys by the URL of their admin port, and the objects of a cluster.
func Read(ctx context.Context, names []string, of Cluster) ([]Input, error) {
	var inputs []Input
	if of.Kubeconfig == "" && of.Context != "" {
		return nil, fmt.Errorf("--context %s without a kubeconfig: name it with --kubeconfig", of.Context)
	}
	if of.Kubeconfig != "" {
		config, err := cluster.Read(of.Kubeconfig, of.Context)
		if err != nil {
			return nil, err
		}
		texts, err := config.Objects(ctx)
		if err != nil {
			return nil, err
		}
		for _, t := range texts {
			inputs = append(inputs, Input(t))
		}
	}
	total := 0
	add := func(name string, text []byte, err error) error {
		if total += len(text); err == nil && (total > 4*tree.MaxText || len(inputs) >= maxFiles) {
			return fmt.Errorf("reading %s: more than %d files or %d MiB: give fewer", name, maxFiles, 4*tree.MaxText>>20)
		}
		inputs = append(inputs, Input{name, text})
		return err
	}
	for _, name := range names {
		var err error
		switch info, missing := os.Stat(name); {
		case strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://"):
			at, text, failed := dump(ctx, name)
			err = add(at, text, failed)
		case missing == nil && info.IsDir():
			err = folder(name, add)
		default:
			text, failed := file(name)
			err = add(name, text, failed)
		}
		if err != nil {
			return nil, err
		}
	}
	return inputs, nil
}

// file reads a regular file, or what comes in by standard input. To open a FIFO would wait for who writes into it.
func file(name string) ([]byte, error) {
	if name != "-" {
		text, err := watch.ReadFile(name, tree.MaxText)
		if info, missing := os.Stat(name); err != nil && missing == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%w: give it by standard input, with - as the name", err)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the configuration: %w", err)
		}
		return text, nil
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, tree.MaxText+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(text) > tree.MaxText {
		return nil, fmt.Errorf("reading %s: larger than %d MiB", name, tree.MaxText>>20)
	}
	return text, nil
}

// folder reads what is in a folder and below it, in the order of names. What begins with a dot is left out.
func folder(dir string, add func(string, []byte, error) error) error {
	found := 0
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		switch rel, _ := filepath.Rel(dir, name); {
		case err != nil:
			return err
		case strings.HasPrefix(entry.Name(), ".") && rel != ".":
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir():
			if strings.Count(rel, string(filepath.Separator)) > maxFolders {
				return fmt.Errorf("%s: more than %d folders deep", name, maxFolders)
			}
			return nil
		case !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)):
			return nil
		}
		found++
		text, err := file(name)
		return add(name, text, err)
	})
	if err != nil {
		return fmt.Errorf("reading the folder: %w", err)
	}
	if found == 0 {
		return fmt.Errorf("%s: no .yaml, .yml or .json file in it", dir)
	}
	return nil
}

// dump asks an admin port for what Envoy is configured with.
func dump(ctx context.Context, name string) (at string, text []byte, err error) {
	u, err := url.Parse(name)
	if err != nil || u.Host == "" || u.User != nil {
		return name, nil, fmt.Errorf("%q: give the URL of Envoy's admin port, such as http://127.0.0.1:9901", name)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path, u.RawQuery = "/config_dump", "include_eds"
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return name, nil, err
	}
	client, ours := upstream.Direct{Header: 64 << 10}.New()
	defer ours.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return name, nil, fmt.Errorf("asking %s for its configuration: %w", upstream.Redacted(u), upstream.Truncate(err))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return name, nil, fmt.Errorf("asking %s for its configuration: it answers %s; is that Envoy's admin port?", upstream.Redacted(u), response.Status)
	}
	text, err = upstream.ReadBody(response, tree.MaxText)
	if err != nil {
		return name, nil, fmt.Errorf("asking %s for its configuration: %w", upstream.Redacted(u), err)
	}
	return upstream.Redacted(u), text, nil
}

// Gatehouse is what findings depend on of a gatehouse.yaml.
func Gatehouse(c *config.Config) rules.Gatehouse {
	g := rules.Gatehouse{Known: true, PolicyTimeout: time.Duration(c.Policy.Timeout), Message: int(c.Limits.Message), Metadata: c.Identity.Metadata.Name != "",
		CompatPaths: c.Paths.Compat, AllowPaths: c.Paths.Allow, DryRunExtension: c.DryRun.AllowExtension}
	for _, name := range []string{c.Headers.Subject, c.Headers.Roles, c.Headers.Groups, c.Headers.Scopes, c.Headers.Email, c.Headers.JSON, c.Headers.JWT.Name} {
		if name != "" {
			g.IdentityHeaders = append(g.IdentityHeaders, strings.ToLower(name))
		}
	}
	for name := range c.Headers.Properties {
		g.IdentityHeaders = append(g.IdentityHeaders, strings.ToLower(name))
	}
	slices.Sort(g.IdentityHeaders[min(2, len(g.IdentityHeaders)):])
	place := func(t config.Token) {
		switch {
		case t.Cookie != "":
			g.Credentials = append(g.Credentials, "cookie")
		case t.WebsocketProtocol != "":
			g.Credentials = append(g.Credentials, "sec-websocket-protocol")
		case t.Header != "":
			g.Credentials = append(g.Credentials, strings.ToLower(t.Header))
		}
	}
	from := func(tokens []config.Token) {
		if len(tokens) == 0 {
			g.Credentials = append(g.Credentials, "authorization")
		}
		for _, t := range tokens {
			place(t)
		}
	}
	for _, j := range c.Identity.JWT {
		from(j.From)
	}
	for _, i := range c.Identity.Introspection {
		from(i.From)
	}
	if c.Identity.APIKeys.File != "" {
		if c.Identity.APIKeys.Header == "" {
			c.Identity.APIKeys.Header = "x-api-key"
		}
		place(config.Token{Header: c.Identity.APIKeys.Header})
	}
	slices.Sort(g.Credentials)
	g.Credentials = slices.Compact(g.Credentials)
	return g
}
