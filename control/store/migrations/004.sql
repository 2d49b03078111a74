-- Users and groups as identity providers push them (SCIM). The directory's objects are derived from them.
create table scim_resource (
  environment integer not null references environment, id text not null, kind text not null, source text not null,
  object text not null,      -- the id of the directory's object: user:<object> or group:<object>
  name text not null,        -- userName or displayName in small letters
  external_id text not null, -- '': none
  body blob not null, version integer not null, created_at integer not null, changed_at integer not null,
  primary key (environment, id)
) strict;
create unique index scim_object on scim_resource (environment, kind, object);
create index scim_name on scim_resource (environment, kind, name);
create index scim_external on scim_resource (environment, kind, external_id);
create index scim_source on scim_resource (environment, kind, source, created_at, id);

create table scim_member (
  environment integer not null references environment, group_id text not null, member_id text not null,
  primary key (environment, group_id, member_id)
) strict, without rowid;
create index scim_member_of on scim_member (environment, member_id);

-- by what names a user is known: the keys of identities
create table scim_identity (
  environment integer not null references environment, key text not null, resource text not null, is_name integer not null, -- 1: his userName
  primary key (environment, key, resource)
) strict, without rowid;
create index scim_identity_of on scim_identity (environment, resource);

-- what a provider says of an object. It is put into the object's properties, whoever writes them.
create table object_part (
  environment integer not null references environment, type text not null, id text not null, source text not null,
  resource text not null,    -- '': the provider deleted it
  application text not null, -- the source that writes the other properties; '': none yet
  display_name text not null, properties blob not null,
  primary key (environment, type, id)
) strict, without rowid;
