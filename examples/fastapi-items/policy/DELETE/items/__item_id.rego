# DELETE /items/{item_id:int}   (delete_item)
package shop.DELETE.items.__item_id

import data.roles

default allowed := false

allowed if roles.may("delete")
