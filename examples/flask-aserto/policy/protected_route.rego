package example.GET.protected_route.__parameter

default allowed := false

default visible := false

default enabled := false

# Members of the group of viewers may read, and everyone who is in the directory may read what is public.
allowed if "viewers" in input.user.groups

allowed if {
	input.user.id
	input.resource.parameter == "public"
}

visible if input.user.id

enabled if "viewers" in input.user.groups
