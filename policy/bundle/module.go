package bundle

import (
	"errors"
	"path"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"
)

// moduleParser parses modules in the version of Rego that the manifest or the module itself asks for.
type moduleParser struct {
	manifest *opa.Manifest
	options  map[ast.RegoVersion]ast.ParserOptions
}

func newModuleParser(manifest *opa.Manifest) *moduleParser {
	p := &moduleParser{manifest: manifest, options: map[ast.RegoVersion]ast.ParserOptions{}}
	// OPA derives the capabilities anew for every module that comes without; for thousands of modules that is slow.
	for _, v := range []ast.RegoVersion{ast.RegoV0, ast.RegoV1, ast.RegoV2} {
		capabilities := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(v))
		p.options[v] = ast.ParserOptions{RegoVersion: v, Capabilities: capabilities}
	}
	return p
}

// parse returns the module, whose locations name bundle and file, or all of its errors.
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
		// A mistake in a v0 module: as v1 each of its rules would be reported for lacking `if`.
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
