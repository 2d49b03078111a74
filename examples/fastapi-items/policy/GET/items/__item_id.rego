# GET /items/{item_id:int}   (read_item)
package shop.GET.items.__item_id

import data.roles

default allowed := false

allowed if roles.may("read")

# By access list: one person and one item.
allowed if input.identity.subject in data.readers[input.resource.item_id]
