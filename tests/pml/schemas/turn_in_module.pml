<!-- turn_in_module.pml:3:20: misplaced tag <user> in <module>; expected text, <module>, <union>, <parameter> -->
<schema name="s">
  <module name="a"><user>text</user></module>
</schema>
