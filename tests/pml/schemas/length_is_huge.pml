<!-- length_is_huge.pml:3:3: length='99999999999999999999'; expected a whole number from 1 to 999999999 -->
<schema name="s">
  <parameter name="a" length="99999999999999999999"/>
</schema>
