<!-- entity_bomb.pml:2:1: <!DOCTYPE> is not allowed in PML; expected tags and text -->
<!DOCTYPE schema [
  <!ENTITY a "ha">
  <!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
]>
<schema name="s">&b;</schema>
