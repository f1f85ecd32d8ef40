<!-- scaffold_in_module.pml:3:20: misplaced tag <scaffold> in <module>; expected text, <module>, <union>, <parameter> -->
<schema name="s">
  <module name="a"><scaffold name="x" modules="a b"/></module>
</schema>
