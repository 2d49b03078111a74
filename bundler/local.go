package bundler

import (
	"errors"
	"fmt"

	"gatehouse/config"
)

// Local are the bundles that were named, or those of the configuration that are on this machine.
func (f *Compiler) Local(args []string) ([]string, error) {
	if len(args) > 0 {
		return args, nil
	}
	src, err := config.Source{File: f.Config}.OrDefault()
	if err != nil {
		return nil, errors.New("which policy? name a folder, or a configuration with --config")
	}
	cfg, doc, err := src.Read()
	if err == nil {
		err = errors.Join(doc.Errs...)
	}
	if err != nil {
		return nil, err
	}
	for _, b := range cfg.Policy.Bundles {
		if b.Path != "" {
			args = append(args, b.Path)
		}
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("%s: none of its bundles is on this machine: name a folder", src.File)
	}
	f.Config = src.File
	return args, nil
}
