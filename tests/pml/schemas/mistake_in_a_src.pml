<!-- sources/mistake.pml:2:8: unknown tag <b> in <module>; expected text, <module>, <union>, <parameter> -->
<schema name="s">
  <module name="a" src="sources/mistake.pml"/>
</schema>
