package bundle

import (
	"errors"
	"path"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"
)

// moduleParser parses modules in the Rego version that the manifest or the module asks for.
type moduleParser struct {
	manifest *opa.Manifest
	options  map[ast.RegoVersion]ast.ParserOptions
}

func newModuleParser(manifest *opa.Manifest) *moduleParser {
	p := &moduleParser{manifest: manifest, options: map[ast.RegoVersion]ast.ParserOptions{}}
	// Without capabilities OPA computes them for each module, which is slow for thousands of modules.
	for _, v := range []ast.RegoVersion{ast.RegoV0, ast.RegoV1, ast.RegoV2} {
		capabilities := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(v))
		p.options[v] = ast.ParserOptions{RegoVersion: v, Capabilities: capabilities}
	}
	return p
}

// parse returns the module, with bundle and file in its locations, or all of its errors.
func (p *moduleParser) parse(name, file string, content []byte) (*ast.Module, ast.Errors) {
	where := path.Join(name, file)
	// Patterns in file_rego_versions start with a slash.
	version, err := p.manifest.RegoVersionForFile("/" + file)
	if err != nil {
		return nil, ast.Errors{{Message: err.Error()}}
	}
	if version != ast.RegoUndefined {
		return p.parseAs(version, where, content)
	}
	module, errs := p.parseAs(ast.RegoV1, where, content)
	if len(errs) == 0 {
		return module, nil
	}
	old, oldErrs := p.parseAs(ast.RegoV0, where, content)
	switch {
	case len(oldErrs) == 0:
		return old, nil
	case len(oldErrs) < len(errs):
		// A mistake in a v0 module: parsed as v1, each of its rules would be reported for a missing `if`.
		return nil, oldErrs
	}
	return nil, errs
}

func (p *moduleParser) parseAs(version ast.RegoVersion, where string, content []byte) (*ast.Module, ast.Errors) {
	module, err := ast.ParseModuleWithOpts(where, string(content), p.options[version])
	if err == nil {
		return module, nil
	}
	var many ast.Errors
	if errors.As(err, &many) {
		return nil, many
	}
	var one *ast.Error
	if errors.As(err, &one) {
		return nil, ast.Errors{one}
	}
	return nil, ast.Errors{{Message: err.Error()}}
}
