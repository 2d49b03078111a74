package bundlecmd

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bundler"
	"gatehouse/bundles"
	"gatehouse/cmd/grammar"
	"gatehouse/images"
	"gatehouse/policy/bundle"
	"gatehouse/terminal"
)

func bundleTagCommand() *cobra.Command {
	var f ImageFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:   "tag BUNDLE NAME",
		Short: "Add a name to an image in the local store, or import a tarball as an image",
		Example: `  gatehouse bundle tag app:1.4 registry.example.com/policies/app:1.4
  gatehouse bundle tag bundle.tar.gz app:1.4`,
		Args: grammar.Arguments("gatehouse bundle tag app:1.4 registry.example.com/policies/app:1.4", 2),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.OpenBundle(c.Context(), args[0], bundler.Local)
			if err != nil {
				return err
			}
			return f.keep(c, o, args[1], output.JSON())
		},
	}
	f.AddStore(c)
	output.Add(c, "one object")
	return c
}

// keep puts a bundle's image into the store and prints its name and digest.
func (f *ImageFlags) keep(c *cobra.Command, o *bundler.Bundle, name string, asJSON bool) error {
	i, err := o.Packed()
	if err != nil {
		return err
	}
	out := describe(i)
	if out.Reference, err = f.Put(i, name); err != nil {
		return err
	}
	return out.print(c.OutOrStdout(), asJSON)
}

func bundlePushCommand() *cobra.Command {
	var f ImageFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:   "push BUNDLE [NAME]",
		Short: "Upload an image to a registry",
		Long: `Uploads an image of the local store to the registry in its name, or a tarball or an image to NAME. It prints
the digest: NAME@sha256:... always refers to this image, even if the tag moves.`,
		Example: `  gatehouse bundle push registry.example.com/policies/app:1.4
  gatehouse bundle push bundle.tar.gz registry.example.com/policies/app:1.4`,
		Args: grammar.Arguments("gatehouse bundle push registry.example.com/policies/app:1.4", 1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.OpenBundle(c.Context(), args[0], bundler.Local)
			if err != nil {
				return err
			}
			i, err := o.Packed()
			if err != nil {
				return err
			}
			if len(args) == 1 && o.Ref == "" {
				return fmt.Errorf("give the name to push it to: gatehouse bundle push %s NAME", args[0])
			}
			name := args[len(args)-1]
			r, err := images.ParseReference(name)
			if err != nil {
				return err
			}
			client, err := f.Client()
			if err != nil {
				return err
			}
			defer client.Close()
			done := progress(c, fmt.Sprintf("uploading %s, %s", name, terminal.Count(len(i.Tarball()), "byte")))
			err = client.Push(c.Context(), i, name)
			if done(); err != nil {
				return err
			}
			out := describe(i)
			out.Reference = r.String()
			return out.print(c.OutOrStdout(), output.JSON())
		},
	}
	f.AddStore(c)
	f.AddRegistry(c)
	output.Add(c, "one object")
	return c
}

// progress says what is going on where it takes long, until done is called.
func progress(c *cobra.Command, what string) (done func()) {
	return terminal.Progress(c.ErrOrStderr(), func(took time.Duration) string { return fmt.Sprintf("%s: %s", what, took.Round(time.Second)) })
}

func bundlePullCommand() *cobra.Command {
	var f ImageFlags
	var tag string
	var output grammar.Output
	c := &cobra.Command{
		Use:   "pull NAME",
		Short: "Fetch an image from a registry into the local store",
		Long: `Fetches an image, verifies its digest, and stores it in the local store under its name, or under that of -t. With
-o it writes the tarball and stores nothing.`,
		Example: `  gatehouse bundle pull registry.example.com/policies/app:1.4
  gatehouse bundle pull registry.example.com/policies/app@sha256:... --out bundle.tar.gz`,
		Args: grammar.Arguments("gatehouse bundle pull registry.example.com/policies/app:1.4", 1),
		RunE: func(c *cobra.Command, args []string) error {
			if tag == "" {
				tag = args[0]
			}
			if r, err := images.ParseReference(tag); err != nil {
				return err
			} else if r.Digest != "" && output.File == "" {
				return errors.New("an image that is pulled by its digest needs a name: give -t NAME, or --out FILE for the tarball")
			}
			client, err := f.Client()
			if err != nil {
				return err
			}
			defer client.Close()
			done := progress(c, "fetching "+args[0])
			i, err := client.Pull(c.Context(), args[0])
			if done(); err != nil {
				return err
			}
			o := &bundler.Bundle{Name: "image", Image: i}
			if o.Files, err = bundles.ReadTarball(o.Name, i.Tarball(), bundle.Limits{}); err != nil {
				return fmt.Errorf("image %s: %w", args[0], err)
			}
			if output.File == "" {
				return f.keep(c, o, tag, output.JSON())
			}
			return saveTarball(c, i, output.File, output.JSON())
		},
	}
	f.AddStore(c)
	f.AddRegistry(c)
	c.Flags().StringVarP(&tag, "tag", "t", "", "name for it in the local store (default: its own)")
	output.AddFile(c, "one object", "", "file for the tarball; - is standard output")
	return c
}

func bundleSaveCommand() *cobra.Command {
	var f ImageFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:     "save NAME",
		Short:   "Write an image's tarball to a file",
		Example: `  gatehouse bundle save registry.example.com/policies/app:1.4 --out bundle.tar.gz`,
		Args:    grammar.Arguments("gatehouse bundle save app:1.4 --out bundle.tar.gz", 1),
		RunE: func(c *cobra.Command, args []string) error {
			i, err := f.Find(c.Context(), args[0], bundler.Local)
			if err != nil {
				return err
			}
			return saveTarball(c, i, output.File, output.JSON())
		},
	}
	f.AddStore(c)
	output.AddFile(c, "one object", "bundle.tar.gz", "the file; - is standard output")
	return c
}

func saveTarball(c *cobra.Command, i *images.Image, file string, asJSON bool) error {
	if err := grammar.WriteFile(c, file, i.Tarball()); err != nil || file == "-" {
		return err
	}
	out := describe(i)
	out.File = file
	return out.print(c.OutOrStdout(), asJSON)
}

func bundleImagesCommand() *cobra.Command {
	var f ImageFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:     "images",
		Short:   "List the images of the local store",
		Example: `  gatehouse bundle images -o json`,
		Args:    grammar.Arguments("gatehouse bundle images", 0),
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := f.Open()
			if err != nil {
				return err
			}
			list, err := store.List()
			if err != nil {
				return err
			}
			if output.JSON() {
				lines := terminal.JSON(c.OutOrStdout())
				for _, i := range list {
					if err := lines.Encode(i); err != nil {
						return err
					}
				}
				return nil
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, i := range list {
				fmt.Fprintf(w, "%s\t%s\t%d bytes\n", i.Reference, i.Digest, i.Size)
			}
			return w.Flush()
		},
	}
	f.AddStore(c)
	output.Add(c, "one object for each image")
	return c
}

func bundleRemoveCommand() *cobra.Command {
	var f ImageFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove names from the local store, and images that have no other",
		Example: `  gatehouse bundle rm registry.example.com/policies/app:1.3`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name the images to remove: gatehouse bundle images lists them")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			store, err := f.Open()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := store.Remove(name); err != nil {
					return err
				}
			}
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(map[string][]string{"removed": args})
			}
			return nil
		},
	}
	f.AddStore(c)
	output.Add(c, "one object")
	return c
}

func bundleInspectCommand() *cobra.Command {
	var f ImageFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:     "inspect BUNDLE",
		Short:   "Show the metadata and content of a bundle or image",
		Example: `  gatehouse bundle inspect registry.example.com/policies/app:1.4 -o json`,
		Args:    grammar.Arguments("gatehouse bundle inspect registry.example.com/policies/app:1.4", 1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.OpenBundle(c.Context(), args[0], bundler.Pulled)
			if err != nil {
				return err
			}
			out, err := o.Inspect()
			if err != nil {
				return err
			}
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(out)
			}
			return printInspected(c.OutOrStdout(), out)
		},
	}
	f.AddStore(c)
	f.AddRegistry(c)
	output.Add(c, "one object")
	return c
}

func printInspected(out io.Writer, i *bundler.Inspected) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, text)
		}
	}
	line("reference", "%s", i.Reference)
	line("path", "%s", i.Path)
	line("digest", "%s", i.Digest)
	line("layer", "%s", i.Layer)
	for _, key := range slices.Sorted(maps.Keys(i.Annotations)) {
		line("annotation", "%s=%s", key, i.Annotations[key])
	}
	line("revision", "%s", i.Revision)
	line("content", "%s", i.Content)
	line("roots", "%q", i.Roots)
	line("rules", "%d in %d modules", i.Rules, i.Modules)
	line("signed", "%v", i.Signed)
	for _, f := range i.Files {
		line("file", "%s %d bytes", f.Name, f.Size)
	}
	return w.Flush()
}

func bundleLoginCommand() *cobra.Command {
	var f ImageFlags
	var output grammar.Output
	var user, file string
	c := &cobra.Command{
		Use:   "login REGISTRY",
		Short: "Store a credential for a registry",
		Long: `Checks a user name and password, or token, with a registry and stores them where docker login does: in the credential helper
named in $DOCKER_CONFIG/config.json or ~/.docker/config.json, else in that file. The password is read from standard input or from a
file, never from the command line.`,
		Example: `  echo "$TOKEN" | gatehouse bundle login ghcr.io -u alice
  gatehouse bundle login registry.example.com -u ci --password-file /run/secrets/registry`,
		Args: grammar.Arguments("gatehouse bundle login registry.example.com -u ci < password", 1),
		RunE: func(c *cobra.Command, args []string) error {
			if user == "" {
				return errors.New("give the user name with -u")
			}
			password, err := readPassword(c, file)
			if err != nil {
				return err
			}
			client, err := f.Client()
			if err != nil {
				return err
			}
			defer client.Close()
			where, err := client.Login(c.Context(), args[0], user, password)
			if err != nil {
				return err
			}
			if output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(map[string]string{"registry": args[0], "username": user, "kept_in": where})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "logged in to %s as %s; the credential is kept as %s says\n", args[0], user, where)
			return err
		},
	}
	f.AddRegistry(c)
	output.Add(c, "one object")
	c.Flags().StringVarP(&user, "username", "u", "", "user name")
	c.Flags().StringVar(&file, "password-file", "", "file with the password (default: standard input)")
	return c
}

// readPassword reads a password, without the line break at its end.
func readPassword(c *cobra.Command, file string) (images.Password, error) {
	const limit = 64 << 10
	in := c.InOrStdin()
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		defer f.Close()
		in = f
	} else if stdin, ok := in.(*os.File); ok {
		if info, err := stdin.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 && info.Mode()&os.ModeDevice != 0 {
			return "", errors.New("the password would show as you type: give it with --password-file FILE, or < FILE")
		}
	}
	text, err := io.ReadAll(io.LimitReader(in, limit+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the password: %w", err)
	case len(text) > limit:
		return "", fmt.Errorf("reading the password: more than %d bytes", limit)
	}
	return images.Password(trimLineBreak(string(text))), nil
}

func trimLineBreak(s string) string {
	if n := len(s); n > 0 && s[n-1] == '\n' {
		s = s[:n-1]
		if n := len(s); n > 0 && s[n-1] == '\r' {
			s = s[:n-1]
		}
	}
	return s
}

func bundleLogoutCommand() *cobra.Command {
	var output grammar.Output
	c := &cobra.Command{
		Use:     "logout REGISTRY",
		Short:   "Remove the credential for a registry",
		Example: `  gatehouse bundle logout ghcr.io`,
		Args:    grammar.Arguments("gatehouse bundle logout ghcr.io", 1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := (&ImageFlags{}).Client()
			if err != nil {
				return err
			}
			defer client.Close()
			if err := client.Logout(c.Context(), args[0]); err != nil || !output.JSON() {
				return err
			}
			return terminal.JSON(c.OutOrStdout()).Encode(map[string]string{"registry": args[0]})
		},
	}
	output.Add(c, "one object")
	return c
}
